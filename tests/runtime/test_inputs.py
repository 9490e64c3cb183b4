import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures.images import ImageError, Picture
from lpnsr.runtime.pictures.metadata import Metadata
from lpnsr.runtime.upscaler import Upscaler

from .toy import photo


@pytest.fixture(scope="module")
def model(bundle):
    return Upscaler.from_bundle(bundle, backend="onnxruntime")


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_an_image_gives_an_image(model, mode):
    picture = Image.fromarray(photo(30, 40)).convert(mode)
    found = model.upscale(picture, seed=3)
    assert isinstance(found, Image.Image) and found.mode == mode
    np.testing.assert_array_equal(
        np.asarray(found), model.upscale(np.asarray(picture), seed=3), strict=True
    )


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("scale", [None, 2, 1.3])
def test_every_channel_and_scale_is_what_the_command_makes(model, channels, dtype, scale):
    pixels = np.dstack([photo(30, 40), photo(30, 40)[::-1, :, :1]])[..., :channels].astype(dtype)
    pixels *= np.iinfo(dtype).max // 255
    found = model.upscale(pixels, scale=scale, seed=5)
    recipe = Recipe(seed=5, scale=scale or 4.0)
    picture = Picture(pixels, Metadata(), ())
    bands = recipe.bands(model, picture, channels, pixels.dtype)
    np.testing.assert_array_equal(found, np.concatenate(list(bands)), strict=True)
    if channels == 1:
        flat = model.upscale(pixels[..., 0], scale=scale, seed=5)
        np.testing.assert_array_equal(flat, found[..., 0], strict=True)


@pytest.mark.parametrize("scale", [0.99, 4.01, -1, float("nan")])
def test_scales_out_of_range_are_refused(model, scale):
    with pytest.raises(ValueError, match="is not from 1 to 4"):
        model.upscale(photo(8, 8), scale=scale)


def test_a_file_gives_an_array_as_deep_as_it_is(model, tmp_path):
    picture = photo(30, 40)
    Image.fromarray(picture).save(tmp_path / "a.png")
    Image.fromarray(picture[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey.png")
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        np.testing.assert_array_equal(model.upscale(path), model.upscale(picture), strict=True)
    grey = model.upscale(tmp_path / "grey.png")
    assert (grey.shape, grey.dtype) == ((120, 160), np.uint16)
    with pytest.raises(ImageError, match=r"cannot read .*none\.png"):
        model.upscale(tmp_path / "none.png")


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float32", "float16"])
def test_a_tensor_gives_a_tensor_with_its_channels_first(model, kind):
    picture = photo(30, 40)
    pixels = picture / 255 if kind.startswith("float") else picture
    pixels = pixels.astype(kind)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    found, expected = model.upscale(tensor), model.upscale(pixels)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), expected, strict=True)
    stack = model.upscale(torch.stack([tensor, tensor]), scale=2)
    assert stack.shape == (2, 3, 60, 80) and stack.dtype == found.dtype
    flat = model.upscale(tensor[0])
    np.testing.assert_array_equal(flat.numpy(), model.upscale(pixels[..., 0]), strict=True)


def test_what_has_an_array_gives_an_array(model):
    class Frame:
        def __array__(self, dtype=None, copy=None):
            return photo(8, 9)

    np.testing.assert_array_equal(model.upscale(Frame()), model.upscale(photo(8, 9)), strict=True)


class Capsule:
    """Hands a picture over by DLPack alone; without one, says that it is elsewhere."""

    def __init__(self, array=None):
        self._array = array

    def __dlpack__(self, **options):
        if self._array is None:
            raise BufferError("it is on a GPU")
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return 1, 0


def test_what_is_handed_over_by_dlpack_gives_an_array(model):
    found = model.upscale(Capsule(photo(8, 9)))
    np.testing.assert_array_equal(found, model.upscale(photo(8, 9)), strict=True)


def test_tensors_are_taken_without_importing_torch():
    script = "import sys, lpnsr.runtime.upscaler; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_upscaler_says_what_it_is(model):
    version = onnxruntime.__version__
    assert repr(model) == f"<Upscaler: toy, x4, ONNX Runtime {version} on the CPU in fp32>"


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
        (np.zeros(4, np.uint8), r"C from 1 to 4, got uint8 \(4,\)"),
        (np.zeros((4, 4, 5), np.uint8), r"got uint8 \(4, 4, 5\)"),
        (np.zeros((4, 4, 3), np.int32), "expected uint8, uint16 or floating-point"),
        (np.zeros((0, 4, 3), np.uint8), "has no pixels"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"got uint8 \(0, 4, 4, 3\)"),
        (
            Image.new("CMYK", (4, 4)),
            "mode CMYK is none of L, LA, RGB, RGBA; convert it",
        ),
        (Capsule(), r"NumPy cannot take the Capsule \(it is on a GPU\); copy it to the CPU"),
        ([photo(8, 8), None], "expected an array, a PIL image or a path, got NoneType"),
        (torch.zeros(5, 4, 3), r"a tensor \(C, H, W\), C from 1 to 4, got \(5, 4, 3\)"),
        (torch.zeros(3, 4, 4, device="meta"), r"cannot take the tensor .*\.detach\(\)\.cpu\(\)"),
        (torch.zeros(3, 4, 4, requires_grad=True), r"cannot take the tensor .*\.detach\(\)"),
        (torch.zeros(3, 4, 4, dtype=torch.bfloat16), r"cannot take the tensor .*\.float\(\)"),
    ],
)
def test_what_is_no_picture(model, picture, message):
    with pytest.raises(ValueError, match=message) as raised:
        model.upscale(picture)
    assert "\n" not in str(raised.value)
