"""Folders of degraded pairs, for training and as test sets."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator
from tqdm import tqdm

from lpnsr.models.training.degradations import Degradation
from lpnsr.models.training.errors import TrainingError
from lpnsr.models.training.photos import open_photo, zoomed

BATCH = 4
SMALLEST = 88  # of a side: the final kernel reaches 10 pixels beyond each pixel of a quarter of it
SMALLEST_ZOOM = 0.5


def write_pairs(
    photos: Sequence[Path],
    output: Path,
    versions: int,
    crop: int | None,
    seed: int,
    degradation: Degradation,
) -> None:
    """Degrade each photograph several times, to `output/lr` and `output/hr`.

    What is drawn for a photograph depends on the seed and its name, not on the others.

    Args:
        photos: files.
        output: folder to make.
        versions: pairs of each photograph.
        crop: side of random crops of the photographs at random sizes; None keeps them whole.
        seed: of all draws.
        degradation: the process.

    Raises:
        TrainingError: the folder exists, two photographs share a name, or one is too small.
    """
    if output.exists():
        raise TrainingError(f"{output} exists already; remove it or name another folder")
    if len({file.stem for file in photos}) < len(photos):
        raise TrainingError("two photographs have the same name; the pairs are named after them")
    for file in photos:
        side = min(open_photo(file).size)
        needed = max(crop or 0, SMALLEST)
        if side < needed:
            raise TrainingError(f"{file} has a side of {side} pixels; at least {needed} are needed")
    for kind in ("lr", "hr"):
        (output / kind).mkdir(parents=True)
    with tqdm(total=len(photos) * versions, unit="pair", disable=None) as bar:
        for file in photos:
            for number, (small, large) in enumerate(
                _pairs(file, degradation, versions, crop, seed)
            ):
                for kind, picture in (("lr", small), ("hr", large)):
                    picture.save(output / kind / f"{file.stem}_{number:04}.png")
                bar.update()


def _pairs(
    file: Path, degradation: Degradation, versions: int, crop: int | None, seed: int
) -> Iterator[tuple[Image.Image, Image.Image]]:
    photo, scale = open_photo(file), degradation.scale
    for first in range(0, versions, BATCH):
        key = [seed, zlib.crc32(file.stem.encode()), first]
        random = np.random.default_rng(key)
        generator = Generator().manual_seed(int(random.integers(1 << 62)))
        count = min(BATCH, versions - first)
        if crop:
            large = [_random_crop(photo, crop // scale * scale, random) for _ in range(count)]
        else:
            size = photo.width // scale * scale, photo.height // scale * scale
            large = [photo.crop((0, 0, *size))] * count
        pictures = np.stack([np.asarray(picture) for picture in large])
        batch = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
        values = (degradation(batch, generator) * 255).round().to(torch.uint8)
        small = values.permute(0, 2, 3, 1).numpy()
        yield from zip((Image.fromarray(picture) for picture in small), large, strict=True)


def _random_crop(photo: Image.Image, crop: int, random: np.random.Generator) -> Image.Image:
    least = max(SMALLEST_ZOOM, (crop + 1) / min(photo.size))
    photo = zoomed(photo, random.uniform(min(least, 1.0), 1.0))
    left, top = (int(random.integers(side - crop + 1)) for side in photo.size)
    return photo.crop((left, top, left + crop, top + crop))
