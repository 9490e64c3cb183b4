import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpnsr import kernels
from lpnsr.kernels import library, reference
from lpnsr.kernels.reference import philox4x32

from .answers import PUBLISHED

needs_library = pytest.mark.skipif(library.LIBRARY is None, reason="built without a C++ compiler")


@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_philox_gives_the_published_answers(counter, key, words):
    found = philox4x32(counter, key)
    assert tuple(int(word) for word in found) == words
    assert all(word.dtype == np.uint32 for word in found)


@needs_library
@pytest.mark.parametrize(("counter", "key", "words"), PUBLISHED)
def test_the_library_gives_the_published_answers(counter, key, words):
    assert tuple(library.philox4x32(np.array([counter]), key)[0]) == words


@needs_library
def test_the_library_gives_the_same_words():
    counters = np.random.default_rng(0).integers(0, 2**32, (10001, 4), dtype=np.uint32)
    words = np.stack(philox4x32(counters.T, (2**32 - 1, 12345)), axis=1)
    np.testing.assert_array_equal(library.philox4x32(counters, (2**32 - 1, 12345)), words)


def test_philox_broadcasts():
    words = philox4x32((np.arange(3), np.arange(2)[:, None], 7, 9), (1, 2))
    assert all(word.shape == (2, 3) for word in words)
    single = philox4x32((2, 1, 7, 9), (1, 2))
    assert [int(word[1, 2]) for word in words] == [int(word) for word in single]


def test_normals_are_what_the_docstring_says(face):
    seed, k, channel, y, x = 2**33 + 5, 2, 6, 1000, 70000
    found = face.normals(seed, k + 1, 8, y, x, 1, 1)[k, :, 0, 0]
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


def test_normals_stay_what_they_are(face):
    # Numbers for other implementations to reproduce.
    found = face.normals(42, 2, 3, 10, 20, 1, 2)
    expected = [
        [[[-1.5182402, -1.4142570]], [[-0.8821912, -1.7202442]], [[-1.2076595, 0.4138410]]],
        [[[1.1475192, 0.3830053]], [[-0.9830633, -1.6739937]], [[0.2660267, 0.2297560]]],
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


SIZES = [(1, 1), (3, 7), (1, 1025), (64, 64), (33, 65), (5, 513)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_both_faces_make_the_same_noise(face, size, channels):
    found = face.normals(2**63 + 1, 2, channels, 2**32 - 64, 123, *size)
    expected = reference.normals(2**63 + 1, range(2), channels, 2**32 - 64, 123, *size)
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
    whole = kernels.normals(seed, 4, 9, top, left, 16, 16)
    part = kernels.normals(seed, draws, channels, top + y, left + x, height, width)
    assert part.dtype == np.float32
    np.testing.assert_allclose(
        part, whole[:draws, :channels, y : y + height, x : x + width], rtol=0, atol=1e-6
    )


def test_normals_are_standard_and_independent(face):
    values = face.normals(3, 2, 6, 0, 0, 128, 128).astype(np.float64)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**4).mean() - 3) < 0.1
    rows = np.concatenate([values.reshape(12, -1), values[:, :, ::-1].reshape(12, -1)])
    assert np.abs(np.corrcoef(rows) - np.eye(24)).max() < 0.04


def test_seeds_differ_in_both_halves():
    low, high, both = (kernels.normals(seed, 1, 1, 0, 0, 8, 8) for seed in (1, 2**32, 2**32 + 1))
    assert not np.allclose(low, high)
    assert not np.allclose(low, both)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        kernels.normals(seed, 1, 1, 0, 0, 1, 1)
