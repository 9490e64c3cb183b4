import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpnsr.runtime.tiles import tiling
from lpnsr.runtime.tiles.tiling import ALIGNMENT, TilingError, plan

SCALE = 4
sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))
tiles = st.tuples(st.integers(2, 12), st.integers(2, 12)).map(lambda t: (8 * t[0], 8 * t[1]))


@st.composite
def tilings(draw):
    tile = draw(tiles)
    overlap = st.integers(0, min(tile) - ALIGNMENT)
    return draw(sizes), tile, draw(st.tuples(overlap, overlap))


def axis(tiles, name):
    """The spans along one axis, in order."""
    return list({getattr(tile, name).start: getattr(tile, name) for tile in tiles}.values())


@settings(max_examples=200, deadline=None)
@given(tilings())
def test_tiles_cover_the_picture_as_promised(tiling_):
    size, tile, overlaps = tiling_
    planned = plan(size, tile, overlaps, SCALE)
    axes = zip(("rows", "columns"), size, tile, overlaps, strict=True)
    for name, side, length, overlap in axes:
        spans = axis(planned, name)
        starts = [span.start for span in spans]
        padded = max(length, -(-side // ALIGNMENT) * ALIGNMENT)
        assert starts[0] == 0 and starts[-1] == padded - length
        assert all(start % ALIGNMENT == 0 for start in starts)
        gaps = np.diff(starts)
        assert all(0 < gap <= length - overlap for gap in gaps)
        assert len(spans) == tiling.count(side, length, overlap)
        assert len(gaps) == 0 or max(gaps) - min(gaps) <= ALIGNMENT
        # One tile less could not reach the end.
        farthest = (len(starts) - 2) * ((length - overlap) // ALIGNMENT * ALIGNMENT) + length
        assert len(starts) == 1 or farthest < padded
    order = [(tile.rows.start, tile.columns.start) for tile in planned]
    assert order == sorted(order)
    assert len(order) == len(axis(planned, "rows")) * len(axis(planned, "columns"))


@settings(max_examples=200, deadline=None)
@given(tilings())
def test_weights_sum_to_one_and_are_zero_near_inner_borders(tiling_):
    size, tile, overlaps = tiling_
    planned = plan(size, tile, overlaps, SCALE)
    for name, side, overlap in zip(("rows", "columns"), size, overlaps, strict=True):
        total = np.zeros(side * SCALE)
        spans = axis(planned, name)
        for span in spans:
            assert span.weight.dtype == np.float32 and span.weight.min() >= 0
            total[span.target(SCALE)] += span.weight
            guard = overlap * SCALE // 4
            assert span is spans[0] or not span.weight[:guard].any()
            assert span is spans[-1] or not span.weight[len(span.weight) - guard :].any()
        np.testing.assert_allclose(total, 1.0, rtol=0, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(tilings())
def test_blending_tiles_of_an_enlarged_picture_gives_it_back(tiling_):
    size, tile, overlaps = tiling_
    picture = np.random.default_rng(0).random((*size, 2), dtype=np.float32)
    output = np.zeros((size[0] * SCALE, size[1] * SCALE, 2), dtype=np.float32)
    for piece in plan(size, tile, overlaps, SCALE):
        cut = piece.cut(picture)
        assert cut.shape == (*tile, 2)
        below = output[piece.rows.start * SCALE :]
        piece.blend(cut.repeat(SCALE, axis=0).repeat(SCALE, axis=1), below, SCALE)
    expected = picture.repeat(SCALE, axis=0).repeat(SCALE, axis=1)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (2, 3), (5, 64), (64, 65)])
def test_padding_is_numpys_reflection(size):
    picture = np.arange(size[0] * size[1]).reshape(size)[..., None]
    rows, columns = (max(64, -(-side // 8) * 8) for side in size)
    pad = ((0, rows - size[0]), (0, columns - size[1]), (0, 0))
    padded = np.pad(picture, pad, mode="reflect")
    for piece in plan(size, (64, 64), (16, 16), SCALE):
        y, x = piece.rows.start, piece.columns.start
        np.testing.assert_array_equal(piece.cut(picture), padded[y : y + 64, x : x + 64])


def test_the_cross_fade_is_centred_in_the_overlap():
    first, second = axis(plan((64, 112), (64, 64), (8, 16), 1), "columns")
    assert second.start == 48
    fade = [0.0625, 0.1875, 0.3125, 0.4375, 0.5625, 0.6875, 0.8125, 0.9375]
    np.testing.assert_allclose(second.weight[:16], [0] * 4 + fade + [1] * 4)
    np.testing.assert_allclose(first.weight[48:], 1 - second.weight[:16])


@pytest.mark.parametrize(
    ("tile", "overlap", "message"),
    [
        ((64, 60), 16, "multiple of 8"),
        ((64, 128), 57, "choose 0 to 56"),
        ((64, 64), -1, "choose 0 to 56"),
    ],
)
def test_impossible_tilings_are_refused(tile, overlap, message):
    with pytest.raises(TilingError, match=message):
        tiling.check(tile, overlap)
    with pytest.raises(TilingError, match=message):
        plan((100, 100), tile, (0, overlap), SCALE)
