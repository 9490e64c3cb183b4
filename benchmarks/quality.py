"""How well a model restores photographs: `python -m lpnsr.benchmarks.quality PHOTO…`.

Each photograph is reduced to a quarter (bicubic), upscaled again by the model and by bicubic
interpolation, and both are compared with the original.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.upscaler import Upscaler

BICUBIC = Image.Resampling.BICUBIC
BORDER = 4

Upscale = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Quality:
    """One upscaled photograph against its original.

    Attributes:
        psnr: on luma (BT.601), in dB, without a border of 4 pixels.
        sharpness: gradient energy of luma as a share of the original's.
    """

    psnr: float
    sharpness: float


def compare(upscaled: np.ndarray, original: np.ndarray) -> Quality:
    """Compare two uint8 (H, W, 3) RGB pictures."""
    inner = (slice(BORDER, -BORDER),) * 2
    ours, theirs = (rgb2ycbcr(picture)[..., 0][inner] for picture in (upscaled, original))
    psnr = peak_signal_noise_ratio(theirs, ours, data_range=255)
    return Quality(float(psnr), _gradient_energy(ours) / _gradient_energy(theirs))


def measure(photo: Path, upscale: Upscale, scale: int = 4) -> tuple[Quality, Quality]:
    """Quality of `upscale` and of bicubic interpolation on one photograph."""
    with Image.open(photo) as image:
        image = image.convert("RGB")
    small_size = image.width // scale, image.height // scale
    size = small_size[0] * scale, small_size[1] * scale
    original = image.crop((0, 0, *size))
    small = original.resize(small_size, BICUBIC)
    bicubic = np.asarray(small.resize(size, BICUBIC))
    reference = np.asarray(original)
    return compare(upscale(np.asarray(small)), reference), compare(bicubic, reference)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m lpnsr.benchmarks.quality", description=__doc__)
    parser.add_argument("photos", type=Path, nargs="+", metavar="PHOTO")
    parser.add_argument("--model", type=Path, default=BUILTIN, metavar="BUNDLE")
    args = parser.parse_args(argv)
    upscaler = Upscaler.from_bundle(args.model)
    print("| photograph | bicubic PSNR-Y | model PSNR-Y | gain | bicubic sharpness | model |")
    print("| --- | --- | --- | --- | --- | --- |")
    results = []
    for photo in args.photos:
        model, bicubic = measure(photo, upscaler.upscale)
        results.append((bicubic.psnr, model.psnr, bicubic.sharpness, model.sharpness))
        _row(photo.name, results[-1])
    _row("mean", np.mean(results, axis=0))


def _row(name: str, result: Sequence[float]) -> None:
    bicubic, model, bicubic_sharpness, sharpness = result
    print(
        f"| {name} | {bicubic:.2f} dB | {model:.2f} dB | {model - bicubic:+.2f} dB "
        f"| {bicubic_sharpness:.0%} | {sharpness:.0%} |"
    )


def _gradient_energy(luma: np.ndarray) -> float:
    return float(sum(np.square(np.diff(luma, axis=axis)).mean() for axis in (0, 1)))


if __name__ == "__main__":
    main()
