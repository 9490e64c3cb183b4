import tracemalloc

import cv2
import numpy as np
import pytest

from lpnsr.kernels import normals
from lpnsr.runtime.backends import host_pictures
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.manifest import BundleError, Graph
from lpnsr.runtime.tiles.tiling import TilingError
from lpnsr.runtime.upscaler import Description, UpscaleError, Upscaler, matching

from .toy import Grey, photo


def linear(picture):
    """What the calm toy model computes, for a whole picture."""
    return cv2.resize(picture.astype(np.float32), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("size", [(1, 1), (3, 70), (32, 32), (33, 64), (100, 130)])
def test_gives_uint8_of_four_times_the_size(bundle, size):
    found = Upscaler.from_bundle(bundle).upscale(photo(*size))
    assert found.shape == (4 * size[0], 4 * size[1], 3)
    assert found.dtype == np.uint8


def test_tiles_leave_no_seam(calm_bundle):
    picture = photo(104, 136)
    found = Upscaler.from_bundle(calm_bundle, tile=(32, 32)).upscale(picture, color_fix=False)
    error = np.abs(found.astype(np.float32) - linear(picture))
    assert error.max() <= 0.51  # rounded, not truncated


def test_bands_of_the_colour_fix_do_not_show(bundle, monkeypatch):
    model, picture = Upscaler.from_bundle(bundle), photo(100, 40)
    whole = model.upscale(picture)
    monkeypatch.setattr(host_pictures, "_BAND", 7)
    bands = model.upscale(picture)
    assert np.abs(whole.astype(int) - bands).max() <= 1  # a value at a rounding edge
    assert np.mean(whole == bands) > 0.999


def test_the_batch_does_not_matter(bundle):
    picture = photo(100, 130)
    single, triple = (
        Upscaler.from_bundle(bundle, tile=(32, 32), batch=batch).upscale(picture, seed=7)
        for batch in (1, 3)
    )
    np.testing.assert_array_equal(single, triple)


def test_earlier_pictures_do_not_matter(bundle):
    model = Upscaler.from_bundle(bundle)
    first = model.upscale(photo(40, 50), seed=1)
    model.upscale(photo(100, 70), seed=2)
    np.testing.assert_array_equal(model.upscale(photo(40, 50), seed=1), first)


def test_the_tile_does_not_matter_to_a_model_that_sees_single_pixels(bundle):
    picture = photo(100, 130)
    small, large = (
        Upscaler.from_bundle(bundle, tile=tile).upscale(picture, seed=7, color_fix=False)
        for tile in ((32, 32), (64, 64))
    )
    assert np.abs(small.astype(int) - large).max() <= 1


def test_seeds_matter(bundle):
    model, picture = Upscaler.from_bundle(bundle), photo(32, 32)
    first, again, other = (model.upscale(picture, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.mean(first != other) > 0.5


def test_the_colour_fix_takes_the_inputs_colours(bundle):
    model = Upscaler(Description(bundle), Grey())
    picture = np.full((40, 40, 3), (200, 60, 30), np.uint8)
    assert np.unique(model.upscale(picture, color_fix=False)).tolist() == [128]
    assert np.abs(model.upscale(picture).astype(int) - picture[0, 0]).max() <= 1


def recorded(bundle, picture, batch, **options):
    model = Upscaler(Description(bundle, tile=(32, 32), batch=batch, overlap=16), Grey())
    model.upscale(picture, **options)
    return model.backend.calls


def test_tiles_get_the_pictures_noise_at_their_place(bundle):
    calls = recorded(bundle, photo(32, 72), 1, seed=2**40)
    whole = normals(2**40, 3, 5, 0, 0, 32, 72)
    assert len(calls) == 4
    for (_, noise), left in zip(calls, (0, 8, 24, 40), strict=True):
        np.testing.assert_allclose(noise[:, 0], whole[..., left : left + 32], atol=1e-6)


def test_deterministic_keeps_only_the_starting_noise(bundle):
    ((_, noise),) = recorded(bundle, photo(32, 32), 1, seed=9, deterministic=True)
    np.testing.assert_array_equal(noise[0, 0], normals(9, 3, 5, 0, 0, 32, 32)[0])
    assert not noise[1:].any()


def test_an_incomplete_batch_is_filled_with_its_last_tile(bundle):
    calls = recorded(bundle, photo(32, 80), 3)
    assert len(calls) == 2
    lr, noise = calls[1]
    assert lr.shape == (3, 3, 32, 32) and noise.shape == (3, 3, 5, 32, 32)
    assert lr.dtype == noise.dtype == np.float32
    np.testing.assert_array_equal(lr[1], lr[2])
    np.testing.assert_array_equal(noise[:, 1], noise[:, 2])


def test_the_picture_is_scaled_to_one(bundle):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[..., 1] = 255
    ((lr, _),) = recorded(bundle, picture, 1)
    np.testing.assert_array_equal(lr[0, :, 0, 0], [-1, 1, -1])


def test_progress_counts_tiles(bundle):
    seen = []
    model = Upscaler.from_bundle(bundle, tile=(32, 32), batch=3, overlap=16)
    model.upscale(photo(32, 80), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 4), (3, 4), (4, 4)]


def test_values_that_are_not_finite_name_the_tile(bundle):
    picture = photo(32, 80)
    picture[5:9, 70:74] = 255  # the toy model divides by zero there
    with pytest.raises(UpscaleError, match=r"row 0, column 48"):
        Upscaler.from_bundle(bundle, tile=(32, 32)).upscale(picture)


def test_the_output_is_never_whole_in_memory(bundle):
    model = Upscaler(Description(bundle, tile=(64, 64)), Grey())
    picture = photo(6000, 40)
    tracemalloc.start()
    for _ in model.bands(picture):
        model.backend.calls.clear()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 4 * picture.nbytes / 3  # a third of the output as float32


class Overflowing(Grey):
    """Gives infinity in the last tile's corner unless it computes precisely."""

    def run(self, lr, noise):
        sr = super().run(lr, noise)
        sr[-1, 0, 0, 0] = np.inf
        return sr

    def run_precisely(self, lr, noise):
        return np.full_like(super().run(lr, noise), 0.5)


def test_values_that_are_not_finite_are_computed_precisely(bundle):
    model = Upscaler(Description(bundle), Overflowing())
    assert np.unique(model.upscale(photo(32, 32), color_fix=False)).tolist() == [191]


def test_16_bit_pictures_keep_their_depth(calm_bundle):
    picture = photo(40, 56).astype(np.uint16) * 257 + 31
    found = Upscaler.from_bundle(calm_bundle, tile=(32, 32)).upscale(picture, color_fix=False)
    assert found.dtype == np.uint16
    assert np.abs(found - linear(picture)).max() <= 1
    assert len(np.unique(found)) > 2000


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (150, 40)])
def test_bands_are_the_picture(bundle, size):
    model, picture = Upscaler.from_bundle(bundle, tile=(32, 32)), photo(*size)
    bands = list(model.bands(picture, seed=3))
    assert all(band.dtype == np.float32 for band in bands)
    values = (np.concatenate(bands) + 1) * 127.5
    np.testing.assert_array_equal(np.rint(values), model.upscale(picture, seed=3))


def test_a_seed_out_of_range_is_refused(bundle):
    with pytest.raises(ValueError, match="seed"):
        Upscaler.from_bundle(bundle).upscale(photo(8, 8), seed=-1)


def test_an_overlap_that_does_not_fit_is_refused(bundle):
    with pytest.raises(TilingError, match="choose 0 to 24"):
        Upscaler.from_bundle(bundle, overlap=32)
    Upscaler.from_bundle(bundle, overlap=32, tile=(64, 64))


def graphs(*shapes):
    return [Graph(f"{h}x{w}-{b}", (h, w), b, {}) for h, w, b in shapes]


def test_matching_keeps_what_was_asked_for():
    available = graphs((64, 64, 1), (64, 64, 4), (128, 64, 1))
    assert matching(available, None, None) == available
    assert matching(available, (64, 64), None) == available[:2]
    assert matching(available, None, 1) == [available[0], available[2]]


@pytest.mark.parametrize(
    ("tile", "batch", "command"),
    [
        ((128, 128), None, "--tile 128x128 --batch 1"),
        ((128, 64), 4, "--tile 128x64 --batch 4"),
        (None, 3, "--tile 64x64 --batch 3"),
    ],
)
def test_a_missing_graph_names_the_command_that_makes_it(tile, batch, command):
    available = graphs((64, 64, 1), (64, 64, 4), (128, 64, 1))
    with pytest.raises(BundleError, match=f"64x64 batch 4.*lpnsr-export {command}"):
        matching(available, tile, batch)


def test_bfloat16_is_not_for_onnx_runtime(own_bundle):
    path = own_bundle(precision={"denoiser": "bf16"})
    assert "does not compute in bf16" in Upscaler.from_bundle(path).choice
    with pytest.raises(BackendError, match="--backend openvino"):
        Upscaler.from_bundle(path, backend="onnxruntime").upscale(photo(8, 8))
