import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpnsr.runtime.noise import normals, philox4x32

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, words):
    found = philox4x32(counter, key)
    assert tuple(int(word) for word in found) == words
    assert all(word.dtype == np.uint32 for word in found)


def test_philox_broadcasts():
    words = philox4x32((np.arange(3), np.arange(2)[:, None], 7, 9), (1, 2))
    assert all(word.shape == (2, 3) for word in words)
    single = philox4x32((2, 1, 7, 9), (1, 2))
    assert [int(word[1, 2]) for word in words] == [int(word) for word in single]


def test_normals_are_what_the_docstring_says():
    seed, k, channel, y, x = 2**33 + 5, 2, 6, 1000, 70000
    found = normals(seed, k + 1, 8, y, x, 1, 1)[k, :, 0, 0]
    w = [int(word) for word in philox4x32((x, y, channel // 4, k), (5, 2))]
    u = [(word + 0.5) / 2**32 for word in w]
    radius = np.sqrt(-2 * np.log([u[0], u[2]]))
    expected = [
        radius[0] * np.cos(2 * np.pi * u[1]),
        radius[0] * np.sin(2 * np.pi * u[1]),
        radius[1] * np.cos(2 * np.pi * u[3]),
        radius[1] * np.sin(2 * np.pi * u[3]),
    ]
    np.testing.assert_allclose(found[4:8], expected, rtol=0, atol=1e-6)


def test_normals_stay_what_they_are():
    # Numbers for other implementations to reproduce.
    found = normals(42, 2, 3, 10, 20, 1, 2)
    expected = [
        [[[-1.5182402, -1.4142570]], [[-0.8821912, -1.7202442]], [[-1.2076595, 0.4138410]]],
        [[[1.1475192, 0.3830053]], [[-0.9830633, -1.6739937]], [[0.2660267, 0.2297560]]],
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    top=st.integers(0, 2**20),
    left=st.integers(0, 2**20),
    window=st.tuples(st.integers(0, 8), st.integers(0, 8), st.integers(1, 8), st.integers(1, 8)),
    draws=st.integers(1, 4),
    channels=st.integers(1, 9),
)
def test_a_window_is_a_slice_of_any_larger_one(seed, top, left, window, draws, channels):
    y, x, height, width = window
    whole = normals(seed, 4, 9, top, left, 16, 16)
    part = normals(seed, draws, channels, top + y, left + x, height, width)
    assert part.dtype == np.float32
    np.testing.assert_allclose(
        part, whole[:draws, :channels, y : y + height, x : x + width], rtol=0, atol=1e-6
    )


def test_normals_are_standard_and_independent():
    values = normals(3, 2, 6, 0, 0, 128, 128).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    rows = np.concatenate([values.reshape(12, -1), values[:, :, ::-1].reshape(12, -1)])
    assert np.abs(np.corrcoef(rows) - np.eye(24)).max() < 0.04


def test_seeds_differ_in_both_halves():
    low, high, both = (normals(seed, 1, 1, 0, 0, 8, 8) for seed in (1, 2**32, 2**32 + 1))
    assert not np.allclose(low, high)
    assert not np.allclose(low, both)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        normals(seed, 1, 1, 0, 0, 1, 1)
