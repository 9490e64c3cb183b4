"""The built-in model: small, better than bicubic, without seams."""

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpnsr.benchmarks import samples
from lpnsr.benchmarks.metrics import compare
from lpnsr.benchmarks.noise import upscale
from lpnsr.benchmarks.quality import measure
from lpnsr.models import presets
from lpnsr.models.presets import get_preset
from lpnsr.models.training.degradations import Degradation
from lpnsr.models.training.testset import write_pairs
from lpnsr.models.weights import find_weights, load_chain
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.upscaler import Upscaler

PHOTOS = Path(__file__).parent / "photos"
UNSEEN = sorted(PHOTOS.glob("kodim*.png"))


@pytest.fixture(scope="module")
def upscaler():
    return Upscaler.from_bundle(precision="fp32")


def lighthouse(height, width):
    with Image.open(PHOTOS / "lighthouse_small.png") as image:
        return np.asarray(image.convert("RGB"))[-height:, -width:]


def psnr(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b.astype(float)).mean())


def test_beats_bicubic_on_photographs_it_has_not_seen(upscaler):
    assert len(UNSEEN) == 4
    results = [measure(photo, upscaler.upscale) for photo in UNSEEN]
    gains = [model.psnr - bicubic.psnr for model, bicubic in results]
    print("gain over bicubic in dB:", [f"{gain:+.2f}" for gain in gains])
    assert np.mean(gains) >= 0.9
    assert min(gains) > 0
    for model, bicubic in results:
        assert bicubic.sharpness < model.sharpness <= 1


@pytest.fixture(scope="module")
def degraded(tmp_path_factory):
    """The photographs after blur, resize, noise and JPEG: pairs of small and original."""
    folder = tmp_path_factory.mktemp("pairs") / "degraded"
    write_pairs(UNSEEN, folder, 4, None, 0, Degradation())
    return [sample.load(4) for sample in samples.find([folder])]


@pytest.fixture(scope="module")
def reduced():
    return [sample.load(4) for sample in samples.find(UNSEEN, reduced=True)]


@pytest.mark.slow
@pytest.mark.parametrize("pairs", ["reduced", "degraded"])
def test_predicted_noise_is_no_worse_than_random_noise_and_than_none(request, pairs):
    preset = get_preset("lpnsr-tiny")
    chain = load_chain(preset, find_weights(preset, None))
    photos = request.getfixturevalue(pairs)
    photos = photos[:: len(photos) // len(UNSEEN)]  # one version of each
    middle = [(small[32:96, 32:128], large[128:384, 128:512]) for small, large in photos]

    def quality(steps, kind):
        made = [upscale(preset, chain, small, steps, kind) for small, _ in middle]
        return np.mean([compare(sr, hr).psnr for sr, (_, hr) in zip(made, middle, strict=True)])

    for steps in (2, 3, 4):
        predicted = quality(steps, "predicted")
        for other in ("gaussian", "zero"):
            gain = predicted - quality(steps, other)
            print(f"T = {steps}, over {other} noise: {gain:+.4f} dB")
            assert -0.002 < gain < 0.1, "the chain changes next to nothing"


@pytest.mark.slow
def test_beats_bicubic_on_degraded_photographs(upscaler, degraded):
    results = [
        (compare(upscaler.upscale(small), large), compare(samples.bicubic(small, 4), large))
        for small, large in degraded
    ]
    gains = [model.psnr - bicubic.psnr for model, bicubic in results]
    print("gain over bicubic in dB:", [f"{gain:+.2f}" for gain in gains])
    assert np.mean(gains) >= 0.5
    ours, bicubic = np.mean([[quality.sharpness for quality in pair] for pair in results], axis=0)
    print(f"sharpness: {ours:.3f}, bicubic {bicubic:.3f}")
    assert bicubic < ours <= 1


def test_tile_sizes_agree_on_a_photograph():
    small = lighthouse(192, 128)
    pictures = [Upscaler.from_bundle(tile=tile).upscale(small) for tile in ((64, 64), (128, 128))]
    value = psnr(*pictures)
    print(f"tile 64 against tile 128: {value:.1f} dB")
    assert value >= 35


def test_takes_at_most_12_megabytes_in_the_wheel():
    folders = (BUILTIN, presets.BUILTIN_WEIGHTS)
    files = [file for folder in folders for file in folder.iterdir()]
    # Wheels are zip archives; the masks of attention windows, for one, are almost all zeros.
    size = sum(len(zlib.compress(file.read_bytes())) for file in files)
    print(f"built-in model: {size / 1e6:.1f} MB")
    assert size <= 12e6
