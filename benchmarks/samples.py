"""Pictures to measure on: originals that are reduced, folders of pairs, or inputs alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
BICUBIC = Image.Resampling.BICUBIC


class SampleError(ValueError):
    """There is nothing to measure on."""


@dataclass(frozen=True)
class Sample:
    """A picture to upscale.

    Attributes:
        file: the input; with `reduced`, the original.
        original: what it should look like, if that is known.
        reduced: the input is the bicubic reduction of the file.
    """

    file: Path
    original: Path | None = None
    reduced: bool = False

    def load(self, scale: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Input and original, uint8 (H, W, 3) and (scale·H, scale·W, 3) or None.

        Raises:
            SampleError: a picture cannot be read, or the sizes do not fit.
        """
        if self.reduced:
            return reduce(self.file, scale)
        small = np.asarray(_open(self.file))
        if self.original is None:
            return small, None
        large = np.asarray(_open(self.original))
        if large.shape[:2] != (small.shape[0] * scale, small.shape[1] * scale):
            raise SampleError(f"{self.original} is not {scale} times the size of {self.file}")
        return small, large


def find(inputs: Sequence[Path], reduced: bool = False) -> list[Sample]:
    """Samples among files and folders; a folder with `lr/` and `hr/` holds pairs.

    Raises:
        SampleError: there are none, or a pair is not complete.
    """
    samples = []
    for place in inputs:
        if (place / "lr").is_dir() and (place / "hr").is_dir():
            pairs = [(file, place / "hr" / file.name) for file in _pictures(place / "lr")]
            for _, original in pairs:
                if not original.is_file():
                    raise SampleError(f"{original} is missing; lr/ and hr/ hold the same names")
            samples += [Sample(*pair) for pair in pairs]
        else:
            files = _pictures(place) if place.is_dir() else [place]
            samples += [Sample(file, reduced=reduced) for file in files]
    if not samples:
        raise SampleError(f"there are no pictures in {', '.join(map(str, inputs))}")
    return samples


def reduce(photo: Path, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The bicubic reduction of a photograph, and the photograph cut to a multiple of `scale`."""
    image = _open(photo)
    small_size = image.width // scale, image.height // scale
    if not all(small_size):
        raise SampleError(f"{photo} is too small to be reduced")
    original = image.crop((0, 0, small_size[0] * scale, small_size[1] * scale))
    return np.asarray(original.resize(small_size, BICUBIC)), np.asarray(original)


def bicubic(small: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic upscaling, which everything is compared with."""
    height, width = small.shape[:2]
    return np.asarray(Image.fromarray(small).resize((width * scale, height * scale), BICUBIC))


def _pictures(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise SampleError(f"{file} cannot be read as a picture: {error}") from error
