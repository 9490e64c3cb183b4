"""Photographs as training pairs: crops and their bicubic x4 reductions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

ZOOMS = (1.0, 0.8, 0.6)


class PhotoError(ValueError):
    """There is nothing to train on."""


class PhotoCrops:
    """Random aligned crops of photographs and of their reductions, flipped and turned.

    Each photograph is taken at several sizes, so that few photographs show many textures.
    """

    def __init__(self, files: Sequence[Path], scale: int, generator: torch.Generator) -> None:
        """Load and reduce all photographs.

        Raises:
            PhotoError: no files.
        """
        if not files:
            raise PhotoError("no photographs to train on; name a folder of PNG files")
        self.scale, self.generator = scale, generator
        self.pairs = [pair(zoomed(file, zoom), scale) for file in files for zoom in ZOOMS]

    def batch(self, size: int, crop: int) -> tuple[Tensor, Tensor]:
        """A random batch: (size, 3, crop, crop) and (size, 3, scale·crop, scale·crop), [-1, 1]."""
        picked = [self._crop(crop) for _ in range(size)]
        small, large = zip(*picked, strict=True)
        return _to_tensor(small), _to_tensor(large)

    def _crop(self, crop: int) -> tuple[np.ndarray, np.ndarray]:
        small, large = self.pairs[self._below(len(self.pairs))]
        top = self._below(small.shape[0] - crop + 1)
        left = self._below(small.shape[1] - crop + 1)
        turns, flip = self._below(4), self._below(2)

        def cut(picture: np.ndarray, factor: int) -> np.ndarray:
            rows = slice(top * factor, (top + crop) * factor)
            columns = slice(left * factor, (left + crop) * factor)
            turned = np.rot90(picture[rows, columns], turns)
            return turned[:, ::-1] if flip else turned

        return cut(small, 1), cut(large, self.scale)

    def _below(self, bound: int) -> int:
        return int(torch.randint(bound, (), generator=self.generator))


def zoomed(file: Path, zoom: float = 1.0) -> Image.Image:
    """An RGB photograph, resized by `zoom`."""
    with Image.open(file) as photo:
        photo = photo.convert("RGB")
    if zoom == 1.0:
        return photo
    size = round(photo.width * zoom), round(photo.height * zoom)
    return photo.resize(size, Image.Resampling.BICUBIC)


def pair(photo: Image.Image, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """(h, w, 3) uint8 bicubic reduction of a photograph, and the (scale·h, scale·w, 3) original."""
    width, height = photo.width // scale, photo.height // scale
    large = photo.crop((0, 0, width * scale, height * scale))
    small = large.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(small), np.asarray(large)


def _to_tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    stacked = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
    return torch.from_numpy(stacked).float() / 127.5 - 1
