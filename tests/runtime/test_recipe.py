import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures import alpha
from lpnsr.runtime.pictures.images import Picture
from lpnsr.runtime.pictures.metadata import Metadata
from lpnsr.runtime.tiles.rows import quantize
from lpnsr.runtime.upscaler import Upscaler

from .samples import deep
from .toy import photo


@pytest.fixture(scope="module")
def model(bundle):
    return Upscaler.from_bundle(bundle)


def upscale(model, pixels, channels=None, dtype=None, **options):
    picture = Picture(pixels, Metadata(), ())
    channels, dtype = channels or pixels.shape[2], dtype or pixels.dtype
    return np.concatenate(list(Recipe(**options).bands(model, picture, channels, dtype)))


def exact(model, pixels):
    """The model's own floats for RGB pixels."""
    return np.concatenate(list(model.bands(pixels)))


def with_alpha(pixels, opacity):
    return np.dstack([pixels, opacity.astype(pixels.dtype)])


def disc(height, width, full=255):
    y, x = np.mgrid[:height, :width]
    return np.where((y - height / 2) ** 2 + (x - width / 2) ** 2 < 120, full, 0)


@pytest.mark.parametrize("size", [(40, 50), (150, 30)])
@pytest.mark.parametrize("widen", [lambda pixels: pixels, deep], ids=["8", "16"])
def test_rgb_is_the_models(model, size, widen):
    pixels = widen(photo(*size))
    np.testing.assert_array_equal(upscale(model, pixels), model.upscale(pixels))


def test_16_bits_may_become_8(model):
    pixels = deep(photo(40, 50))
    expected = quantize(exact(model, pixels), np.uint8)
    np.testing.assert_array_equal(upscale(model, pixels, dtype=np.uint8), expected)


@pytest.mark.parametrize("widen", [lambda pixels: pixels, deep], ids=["8", "16"])
def test_grey_stays_grey(model, widen):
    grey = widen(photo(40, 50)[..., :1])
    expected = exact(model, grey.repeat(3, axis=2)).mean(axis=2, keepdims=True)
    np.testing.assert_array_equal(upscale(model, grey), quantize(expected, grey.dtype))


def test_alpha_is_upscaled_on_its_own(model):
    colors, opacity = photo(150, 50), disc(150, 50) // 2 + 60
    found = upscale(model, with_alpha(colors, opacity))
    np.testing.assert_array_equal(found[..., :3], model.upscale(colors))
    plane = np.concatenate(list(alpha.bicubic(opacity.astype(np.uint8), 4)))
    np.testing.assert_array_equal(found[..., 3:], quantize(plane, np.uint8))
    size = (4 * 50, 4 * 150)
    plain = Image.fromarray(opacity.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    inner = np.abs(found[..., 3].astype(int) - np.asarray(plain))[8:-8, 8:-8]
    assert np.median(inner) == 0 and inner.max() < 25  # another bicubic kernel, at the edge


def test_alpha_can_be_upscaled_by_the_model(model):
    colors, opacity = photo(40, 50)[..., :1], disc(40, 50) // 2 + 60
    pixels = with_alpha(colors, opacity)
    found = upscale(model, pixels, alpha="model")
    for channel in range(2):
        plane = upscale(model, pixels[..., channel : channel + 1])
        np.testing.assert_array_equal(found[..., channel], plane[..., 0])


@pytest.mark.parametrize("full", [255, 65535])
def test_hidden_colours_do_not_bleed(model, full):
    """What lies under full transparency has no influence at all."""
    dtype = np.uint8 if full == 255 else np.uint16
    opacity = disc(40, 50, full)
    shown = np.where(opacity[..., None] > 0, np.array([full - 9, 40, 90]), 0).astype(dtype)
    other = np.where(opacity[..., None] > 0, shown, full).astype(dtype)
    found = upscale(model, with_alpha(shown, opacity))
    np.testing.assert_array_equal(found, upscale(model, with_alpha(other, opacity)))
    plain = upscale(model, np.full((40, 50, 3), (full - 9, 40, 90), dtype))
    np.testing.assert_array_equal(found[..., :3], plain)


def test_an_invisible_picture_stays_as_it_is(model):
    pixels = with_alpha(photo(40, 50), np.zeros((40, 50)))
    found = upscale(model, pixels)
    np.testing.assert_array_equal(found[..., :3], model.upscale(photo(40, 50)))
    assert not found[..., 3].any()


def test_hidden_pixels_take_the_nearest_visible_colour():
    colors = np.array([[[1], [2], [3], [4], [5], [6]]], np.uint8)
    opacity = np.array([[0, 9, 0, 0, 255, 0]], np.uint8)
    assert alpha.fill_hidden(colors, opacity)[0, :, 0].tolist() == [2, 2, 2, 5, 5, 5]


def test_without_alpha_the_picture_is_laid_on_white(model):
    pixels = with_alpha(photo(40, 50), disc(40, 50))
    full, found = upscale(model, pixels), upscale(model, pixels, channels=3)
    opacity = full[..., 3:] / 255
    expected = full[..., :3] * opacity + 255 * (1 - opacity)
    assert np.abs(found - expected).max() <= 1.5  # rounded once, not three times
    assert (found[0, 0] == 255).all()


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0, 3.7])
def test_a_smaller_scale_is_a_lanczos_reduction(model, scale):
    pixels = photo(150, 50)
    found = upscale(model, pixels, scale=scale)
    height, width = round(150 * scale), round(50 * scale)
    assert found.shape == (height, width, 3)
    large = exact(model, pixels)
    for channel in range(3):
        plane = Image.fromarray(np.ascontiguousarray(large[..., channel]))
        small = np.asarray(plane.resize((width, height), Image.Resampling.LANCZOS))
        difference = found[..., channel].astype(int) - quantize(small, np.uint8)
        assert np.abs(difference).max() <= 1 and np.mean(difference != 0) < 0.001


sides = st.integers(1, 10**5)


@given(st.tuples(sides, sides), st.floats(1, 4), st.none() | st.integers(1, 10**6))
def test_the_target_keeps_the_shape_and_the_limit(size, scale, limit):
    target = Recipe(scale=scale, max_side=limit).target(size)
    assert min(target) >= 1 and max(target) <= (limit or 4 * max(size))
    factor = min(scale, (limit or np.inf) / max(size))
    for side, found in zip(size, target, strict=True):
        assert abs(found - side * factor) <= 0.5 or found == 1
