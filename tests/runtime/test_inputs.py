import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.upscaler import Upscaler

from .toy import photo


@pytest.fixture(scope="module")
def model(bundle):
    return Upscaler.from_bundle(bundle, backend="onnxruntime")


def test_an_image_gives_an_image(model):
    picture = photo(30, 40)
    found = model.upscale(Image.fromarray(picture), seed=3)
    assert isinstance(found, Image.Image) and found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), model.upscale(picture, seed=3))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_give_floats_that_are_not_rounded(model, dtype):
    picture = photo(30, 40)
    found = model.upscale((picture / 255).astype(dtype), color_fix=False)
    assert found.dtype == np.float32 and found.min() >= 0 and found.max() <= 1
    error = np.abs(found * 255 - model.upscale(picture, color_fix=False).astype(np.float32))
    assert error.max() < (0.8 if dtype == np.float16 else 0.51)
    assert len(np.unique(found)) > 2000


def test_a_list_gives_a_list(model):
    pictures = [photo(30, 40), Image.fromarray(photo(20, 20)), photo(8, 9) / 255]
    found = model.upscale(pictures, seed=1)
    assert isinstance(found, list)
    for ours, picture in zip(found, pictures, strict=True):
        alone = model.upscale(picture, seed=1)
        assert type(ours) is type(alone)
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(alone))
    assert model.upscale([]) == []


def test_a_stack_gives_a_stack(model):
    stack = np.stack([photo(20, 30), photo(20, 30)[::-1]]).astype(np.uint16) * 257
    found = model.upscale(stack)
    assert (found.shape, found.dtype) == ((2, 80, 120, 3), np.uint16)
    np.testing.assert_array_equal(found[1], model.upscale(stack[1]))


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.full((4, 4, 3), 1.5), r"values in \[0, 1\], this one goes from 1.5 to 1.5"),
        (np.full((4, 4, 3), np.nan), r"values in \[0, 1\]"),
        (np.zeros((4, 4), np.uint8), r"got uint8 \(4, 4\)"),
        (np.zeros((4, 4, 4), np.uint8), r"got uint8 \(4, 4, 4\)"),
        (np.zeros((4, 4, 3), np.int32), "expected uint8, uint16 or floating-point"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"got uint8 \(0, 4, 4, 3\)"),
        (Image.new("L", (4, 4)), r"mode L is not RGB; convert it with: .convert"),
        ("a.png", "expected an array or a PIL image, got str"),
        ([photo(8, 8), None], "got NoneType"),
    ],
)
def test_what_is_no_picture(model, picture, message):
    with pytest.raises(ValueError, match=message) as raised:
        model.upscale(picture)
    assert "\n" not in str(raised.value)
