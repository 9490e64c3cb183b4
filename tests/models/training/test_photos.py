"""Crops that reach beyond a picture's edge."""

import numpy as np
import pytest

from lpnsr.models.training.config import Config
from lpnsr.models.training.photos import PairCrops, to_tensor
from lpnsr.runtime.tiles.tiling import plan

SCALE, SIDE, CROP = 4, 24, 16


def ramps():
    """A small picture of straight lines, unlike at each pixel, and the large one of which it is."""
    large = np.add.outer(2 * np.arange(SIDE * SCALE), np.arange(SIDE * SCALE) // SCALE)
    large = np.repeat(large[..., None], 3, axis=2).astype(np.uint8)
    return large.reshape(SIDE, SCALE, SIDE, SCALE, 3).mean((1, 3)).astype(np.uint8), large


def crops(share, count=64):
    pair = ramps()
    data = PairCrops([pair], [], Config("toy", border_share=share), SCALE)
    small, large, _ = data.batch(count, CROP)
    return small, large


def windows(picture, side):
    """All squares of a picture, in all turns, as bytes."""
    found = set()
    for top in range(picture.shape[0] - side + 1):
        for left in range(picture.shape[1] - side + 1):
            square = picture[top : top + side, left : left + side]
            for turned in (np.rot90(square, turns) for turns in range(4)):
                found |= {turned.tobytes(), turned[:, ::-1].tobytes()}
    return found


def as_bytes(crop):
    values = ((crop.numpy().transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
    return values.tobytes()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_crops_go_on_beyond_the_edge_as_tiles_do(share):
    small, _ = ramps()
    tile = plan((SIDE, SIDE), (48, 48), (8, 8), SCALE)[0]
    beyond_end = tile.rows.source[SIDE : SIDE + CROP // 4]
    around = np.concatenate([SIDE - 1 - beyond_end[::-1], np.arange(SIDE), beyond_end])
    inside, beyond = windows(small, CROP), windows(small[around[:, None], around], CROP)
    found = {as_bytes(crop) for crop in crops(share)[0]}
    assert found <= (beyond - inside if share else inside)
    assert len(found) > 8


def test_the_large_picture_goes_on_where_the_small_one_does():
    small, large = crops(1.0)
    reduced = large.unflatten(3, (CROP, SCALE)).unflatten(2, (CROP, SCALE)).mean((3, 5))
    # Where a crop is folded, a large pixel belongs to two small ones: not more than half a step.
    levels = (reduced - small).abs() * 127.5
    assert levels.amax() <= 2 * SCALE and levels.mean() < 1


def test_without_a_share_crops_are_those_of_before():
    small, large = ramps()
    data = PairCrops([(small, large)], [], Config("toy"), SCALE)
    random = np.random.default_rng(0)
    random.random(), random.integers(1)
    top, left = (int(random.integers(SIDE - CROP + 1)) for _ in range(2))
    turns, flip = int(random.integers(4)), random.integers(2)
    expected = np.rot90(small[top : top + CROP, left : left + CROP], turns)
    expected = expected[:, ::-1] if flip else expected
    assert (data.batch(1, CROP)[0] == to_tensor([expected])).all()
