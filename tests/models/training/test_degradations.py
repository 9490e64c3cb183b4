import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import correlate
from torch import Generator

from lpnsr.models.training import cli
from lpnsr.models.training.degradations import PROCESSES, Degradation, StageRanges, filtered
from lpnsr.models.training.kernels import BlurRange, blur_kernel, final_kernel, sinc_kernel
from lpnsr.models.training.photos import open_photo, to_tensor

SIDE = 96


def seeded(seed=0):
    return Generator().manual_seed(seed)


def pictures(count=2):
    return torch.rand(count, 3, SIDE, SIDE, generator=seeded(1))


def only(**ranges):
    """A first stage that does nothing, or nothing but what is asked for; JPEG at its best."""
    idle = {
        "blur": BlurRange(21, (0.2, 3.0)),
        "blur_share": 0.0,
        "resize_weights": (0.0, 0.0, 1.0),
        "resize": (1.0, 1.0),
        "gaussian": (0.0, 0.0),
        "poisson": (0.0, 0.0),
        "jpeg": (100, 100),
    }
    return StageRanges(**{**idle, **ranges})


def test_the_same_seed_gives_the_same_pictures():
    degrade = Degradation()
    results = [degrade(pictures(), seeded(seed)) for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("seed", range(6))
def test_results_are_8_bit_pictures_of_a_quarter_of_the_size(seed):
    values = Degradation()(pictures()[..., :88], seeded(seed)) * 255
    assert values.shape == (2, 3, SIDE // 4, 22)
    torch.testing.assert_close(values, values.round(), rtol=0, atol=1e-4)
    assert values.min() >= 0
    assert values.max() <= 255


def test_each_picture_of_a_batch_is_drawn_for_itself():
    first, second = Degradation()(pictures(1).repeat(2, 1, 1, 1), seeded())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("seed", range(8))
def test_kernels_keep_brightness(seed):
    for kernel in (
        blur_kernel(BlurRange(21, (0.2, 3.0)), seeded(seed)),
        blur_kernel(BlurRange(15, (0.2, 1.5)), seeded(seed)),
        final_kernel(21, 0.8, seeded(seed)),
    ):
        assert kernel.shape in ((21, 21), (15, 15))
        assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(kernel, kernel.flip(0, 1), atol=1e-6, rtol=1e-4)


def test_a_sinc_kernel_passes_low_frequencies_only():
    cutoff = math.pi / 2
    response = torch.fft.fft2(sinc_kernel(21, cutoff), (64, 64)).abs()
    frequency = torch.fft.fftfreq(64) * 2 * math.pi
    radius = torch.hypot(frequency[:, None], frequency[None])
    assert (response[radius < 0.7 * cutoff] - 1).abs().max() < 0.2
    assert response[radius > 1.3 * cutoff].max() < 0.15


def test_filtering_takes_each_picture_with_its_own_kernel():
    kernels = torch.rand(2, 7, 7, generator=seeded(2))
    result = filtered(pictures(), kernels)
    for picture, kernel, found in zip(pictures(), kernels, result, strict=True):
        for channel, plane in zip(picture, found, strict=True):
            expected = correlate(channel.double().numpy(), kernel.double().numpy(), mode="mirror")
            np.testing.assert_allclose(plane, expected, rtol=1e-4)


@pytest.mark.parametrize(("grey_share", "alike"), [(1.0, True), (0.0, False)])
def test_gaussian_noise_has_the_strength_that_is_asked_for(grey_share, alike):
    degrade = Degradation(gaussian_share=1.0, grey_share=grey_share)
    flat = torch.full((2, 3, 128, 128), 0.5)
    noisy = degrade._noisy(flat, only(gaussian=(10, 10)), seeded())
    noise = (noisy - flat) * 255
    assert noise.std().item() == pytest.approx(10, rel=0.03)
    assert torch.equal(noise[:, 0], noise[:, 1]) == alike


def test_poisson_noise_grows_with_brightness():
    degrade = Degradation(gaussian_share=0.0, grey_share=0.0)
    ramp = (torch.arange(256) / 255).repeat(1, 3, 256, 1)
    noise = degrade._noisy(ramp, only(poisson=(0.5, 0.5)), seeded()) - ramp
    # 256 distinct values: as many photons at full brightness, and half of their noise.
    for column in (32, 64, 128):
        variance = noise[..., column - 8 : column + 8].square().mean().item()
        assert variance == pytest.approx(0.25 * column / 255 / 256, rel=0.1)


def test_a_second_stage_comes_as_often_as_asked_for():
    stage = only(gaussian=(40, 40))
    flat = torch.full((1, 3, SIDE, SIDE), 0.5)
    quiet = {"first": only(), "second": stage, "gaussian_share": 1.0, "sinc_share": 0.0}
    spread = [
        Degradation(second_share=share, **quiet)(flat, seeded(3)).std().item() for share in (0, 1)
    ]
    assert spread[0] < 0.005
    assert spread[1] > 0.02


@pytest.mark.parametrize("crop", [None, 100])
def test_the_command_makes_pairs_that_depend_on_seed_and_name_alone(photos, tmp_path, crop):
    options = ["--versions", "5", "--seed", "4", *(["--crop", str(crop)] if crop else [])]

    def degrade(source, name, *more):
        code = cli.main(["degrade", str(source), "-o", str(tmp_path / name), *options, *more])
        assert code == 0
        return {file.name: file.read_bytes() for file in (tmp_path / name / "lr").iterdir()}

    both = degrade(photos, "both")
    alone = degrade(photos, "alone", "--hold-out", "ripples.png")
    assert len(both) == 10
    assert len(set(both.values())) == 10
    assert alone == {name: content for name, content in both.items() if "waves" in name}
    for name in both:
        sizes = [Image.open(tmp_path / "both" / kind / name).size for kind in ("lr", "hr")]
        assert sizes[1] == tuple(4 * side for side in sizes[0])
        assert sizes[1] == ((crop, crop) if crop else (128, 112))


def test_bad_input_of_the_command_is_told_in_one_line(photos, tmp_path, capsys):
    Image.new("RGB", (200, 80)).save(tmp_path / "low.png")
    (tmp_path / "there").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for source, output, more, message in (
        (tmp_path / "low.png", "new", (), "at least 88 are needed"),
        (photos, "new", ("--crop", "120"), "side of 112 pixels; at least 120"),
        (photos, "there", (), "exists already"),
        (photos, "new", ("--versions", "0"), "at least 1"),
        (tmp_path / "there", "new", (), "no pictures in"),
        (tmp_path / "broken.png", "new", (), "cannot be read as a picture"),
    ):
        assert cli.main(["degrade", str(source), "-o", str(tmp_path / output), *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert not (tmp_path / "new").exists()


def test_an_old_jpeg_is_nearer_to_its_photograph_than_two_stages_leave_it(photos):
    photo = to_tensor([np.asarray(open_photo(photos / "waves.png"))]) / 2 + 0.5
    small = torch.nn.functional.interpolate(photo, scale_factor=0.25, mode="area")
    errors = {
        name: np.mean([(process(photo, seeded(n)) - small).square().mean() for n in range(8)])
        for name, process in PROCESSES.items()
    }
    assert 0 < errors["old-jpeg"] < errors["two-stage"] / 2
