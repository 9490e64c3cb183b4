import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lpnsr.runtime.tiles import rows
from lpnsr.runtime.tiles.rows import Rows, downscale, quantize, regroup

sides = st.integers(1, 60)
heights = st.lists(st.integers(0, 20), min_size=1, max_size=8).filter(lambda h: sum(h) > 0)


def split(picture, heights):
    return np.split(picture, np.cumsum(heights)[:-1])


@settings(max_examples=100, deadline=None)
@given(heights, st.data())
def test_rows_gives_windows_that_move_down(heights, data):
    picture = np.arange(sum(heights) * 6).reshape(-1, 2, 3)
    source, first = Rows(split(picture, heights)), 0
    for _ in range(5):
        first = data.draw(st.integers(first, len(picture) - 1))
        last = data.draw(st.integers(first + 1, len(picture)))
        np.testing.assert_array_equal(source.take(first, last), picture[first:last])
    with pytest.raises(ValueError, match="row"):
        source.take(first, len(picture) + 1)


@settings(max_examples=50, deadline=None)
@given(heights, st.integers(1, 30))
def test_regroup_keeps_the_picture(heights, count):
    picture = np.arange(sum(heights) * 6).reshape(-1, 2, 3)
    found = list(regroup(split(picture, heights), len(picture), count))
    assert {len(band) for band in found[:-1]} <= {count} and 0 < len(found[-1]) <= count
    np.testing.assert_array_equal(np.concatenate(found), picture)


@settings(max_examples=50, deadline=None)
@given(st.tuples(sides, sides), st.tuples(sides, sides), st.integers(1, 60))
def test_shrinking_in_bands_is_pillows_lanczos(size, other, band):
    size, target = zip(
        *((max(pair), min(pair)) for pair in zip(size, other, strict=True)), strict=True
    )
    picture = np.random.default_rng(0).uniform(-1, 1, (*size, 2)).astype(np.float32)
    heights = [min(7, size[0] - first) for first in range(0, size[0], 7)]
    before, rows._BAND = rows._BAND, band
    found = np.concatenate(list(downscale(split(picture, heights), size, target)))
    rows._BAND = before
    for channel in range(2):
        plane = Image.fromarray(np.ascontiguousarray(picture[..., channel]))
        expected = np.asarray(plane.resize(target[::-1], Image.Resampling.LANCZOS))
        np.testing.assert_allclose(found[..., channel], expected, rtol=0, atol=1e-5)


def test_quantize_rounds_and_clips():
    band = np.array([-2, -1, 0, 1 / 255, 1, 3], np.float32)
    assert quantize(band, np.uint8).tolist() == [0, 0, 128, 128, 255, 255]
    assert quantize(band, np.uint16).tolist() == [0, 0, 32768, 32896, 65535, 65535]
