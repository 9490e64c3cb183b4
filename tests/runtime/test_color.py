import importlib.util
from pathlib import Path

import numpy as np
import pytest

from lpnsr.runtime.pictures import color

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(scope="module")
def recipe():
    spec = importlib.util.spec_from_file_location("recipe", REFERENCE / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_columns_channels(batch):
    return np.ascontiguousarray(batch[0].transpose(1, 2, 0))


def test_equals_the_authors_colour_fix(recipe):
    sr = rows_columns_channels(recipe.image("color/sr", 1, 256, 192))
    lr = rows_columns_channels(recipe.image("color/lr", 1, 64, 48))
    with np.load(REFERENCE / "golden_color.npz") as golden:
        expected = rows_columns_channels(golden["corrected"])
    found = color.correct(sr, lr)
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-5


def test_moves_large_scale_colour_and_keeps_detail():
    lr = np.full((32, 32, 3), (0.2, -0.3, 0.1), dtype=np.float32)
    detail = np.where(np.indices((128, 128)).sum(axis=0) % 2, 0.1, -0.1)[..., None]
    found = color.correct((detail - 0.4).astype(np.float32).repeat(3, axis=2), lr)
    np.testing.assert_allclose(found[40:88, 40:88], (lr[0, 0] + detail)[40:88, 40:88], atol=1e-4)


def test_what_differs_by_more_than_the_limit_is_detail():
    """A drift within the limit is corrected as without one; a dark stroke leaves less of a halo."""
    lr = np.zeros((40, 40, 3), dtype=np.float32)
    drifting = np.full((160, 160, 3), 0.1, dtype=np.float32)
    np.testing.assert_allclose(color.correct(drifting, lr, 0.125), 0, atol=1e-6)
    stroke = np.zeros_like(drifting)
    stroke[:, 78:82] = -0.8
    halos = [color.correct(stroke, lr, limit)[:, 60:70].max() for limit in (np.inf, 0.125)]
    assert halos[1] == pytest.approx(halos[0] * 0.125 / 0.8, rel=1e-3) and halos[0] > 0.05


def test_a_band_with_its_halo_is_corrected_like_the_whole_picture():
    rng = np.random.default_rng(0)
    lr = rng.uniform(-1, 1, (60, 17, 3)).astype(np.float32)
    sr = rng.uniform(-1, 1, (240, 68, 3)).astype(np.float32)
    whole = color.correct(sr, lr)
    top, bottom = 20, 30
    above, below = top - color.HALO, bottom + color.HALO
    band = color.correct(sr[4 * above : 4 * below], lr[above:below])
    inner = band[4 * color.HALO : -4 * color.HALO]
    np.testing.assert_allclose(inner, whole[4 * top : 4 * bottom], rtol=0, atol=1e-6)
