"""Photographs as training pairs: aligned crops of a small and a large picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lpnsr.models.training.config import Config
from lpnsr.models.training.errors import TrainingError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
ZOOMS = (1.0, 0.8, 0.6, 0.4)

Pair = tuple[np.ndarray, np.ndarray]


class PairCrops:
    """Random aligned crops of pairs, flipped, turned and with channels permuted.

    Attributes:
        state: the position in the random draws; set it to go on from there.
    """

    def __init__(
        self, clean: Sequence[Pair], degraded: Sequence[Pair], config: Config, scale: int
    ) -> None:
        """Take crops from two groups of uint8 pairs, (h, w, 3) and (scale·h, scale·w, 3).

        Args:
            clean: the first group.
            degraded: the second group.
            config: how often to draw from the second group and to permute channels, and the seed.
            scale: factor between the sides.

        Raises:
            TrainingError: a group that is drawn from is empty.
        """
        share = config.degraded_share
        if (share < 1 and not clean) or (share > 0 and not degraded):
            raise TrainingError(
                "there are no pictures to train on: name folders with --photos and, "
                "for a degraded_share over 0, --pairs"
            )
        self.clean, self.degraded, self.config, self.scale = clean, degraded, config, scale
        self._random = np.random.default_rng(config.seed)

    @property
    def state(self) -> Mapping[str, Any]:
        """Plain values that hold the position in the random sequence."""
        return self._random.bit_generator.state

    @state.setter
    def state(self, state: Mapping[str, Any]) -> None:
        self._random.bit_generator.state = state

    def batch(self, size: int, crop: int) -> tuple[Tensor, Tensor, Tensor]:
        """A random batch.

        Returns:
            (size, 3, crop, crop) and (size, 3, scale·crop, scale·crop) in [-1, 1], and which are
            degraded, bool (size,).
        """
        small, large, degraded = zip(*(self._crop(crop) for _ in range(size)), strict=True)
        return to_tensor(small), to_tensor(large), torch.tensor(degraded)

    def _crop(self, crop: int) -> tuple[np.ndarray, np.ndarray, bool]:
        degraded = bool(self._random.random() < self.config.degraded_share)
        group = self.degraded if degraded else self.clean
        small, large = group[int(self._random.integers(len(group)))]
        top, left = (self._start(side, crop) for side in small.shape[:2])
        turns, flip = int(self._random.integers(4)), self._random.integers(2)
        permuted = self.config.permuted_share and self._random.random() < self.config.permuted_share
        channels = self._random.permutation(3) if permuted else slice(None)

        def cut(picture: np.ndarray, factor: int) -> np.ndarray:
            rows, columns = (
                _mirrored(start, crop, side, factor)
                for start, side in zip((top, left), small.shape, strict=False)
            )
            turned = np.rot90(picture[rows[:, None], columns][..., channels], turns)
            return turned[:, ::-1] if flip else turned

        return cut(small, 1), cut(large, self.scale), degraded

    def _start(self, side: int, crop: int) -> int:
        """Where a crop begins along an axis; those of `border_share` reach beyond an edge."""
        if self.config.border_share and self._random.random() < self.config.border_share:
            beyond = int(self._random.integers(1, crop // 4 + 1))
            return -beyond if self._random.integers(2) else side - crop + beyond
        return int(self._random.integers(side - crop + 1))


def find_pictures(sources: Iterable[Path], hold_out: Sequence[str] = ()) -> list[Path]:
    """Pictures among files and in folders, sorted, without those whose names are held out.

    Raises:
        TrainingError: there are none.
    """
    sources, found = list(sources), []
    for source in sources:
        found += sorted(source.iterdir()) if source.is_dir() else [source]
    found = [f for f in found if f.suffix.lower() in SUFFIXES and f.name not in hold_out]
    if not found:
        where = ", ".join(map(str, sources))
        raise TrainingError(f"there are no pictures in {where}; name a folder of photographs")
    return found


def clean_pairs(photos: Iterable[Path], scale: int, crop: int) -> list[Pair]:
    """Photographs at several sizes, so that few show many textures, with their reductions.

    Raises:
        TrainingError: a photograph is smaller than a crop or cannot be read.
    """
    pairs = []
    for file in photos:
        photo = open_photo(file)
        made = [reduced(zoomed(photo, zoom), scale) for zoom in ZOOMS]
        fitting = [pair for pair in made if min(pair[0].shape[:2]) >= crop]
        if not fitting:
            raise TrainingError(_too_small(file, photo.size, crop * scale))
        pairs += fitting
    return pairs


def folder_pairs(folder: Path, scale: int, crop: int) -> list[Pair]:
    """The pairs of a folder that holds `lr/` and `hr/` with equal names.

    Raises:
        TrainingError: a partner is missing, sizes do not fit, or a picture is smaller than a crop.
    """
    pairs = []
    for file in find_pictures([folder / "lr"]):
        partner = folder / "hr" / file.name
        small, large = (np.asarray(open_photo(name)) for name in (file, partner))
        if large.shape[:2] != (small.shape[0] * scale, small.shape[1] * scale):
            raise TrainingError(f"{partner} is not {scale} times the size of {file}")
        if min(small.shape[:2]) < crop:
            raise TrainingError(_too_small(file, small.shape[1::-1], crop))
        pairs.append((small, large))
    return pairs


def open_photo(file: Path) -> Image.Image:
    """A picture as RGB.

    Raises:
        TrainingError: it is missing or no picture.
    """
    try:
        with Image.open(file) as photo:
            return photo.convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise TrainingError(f"{file} cannot be read as a picture: {error}") from error


def zoomed(photo: Image.Image, zoom: float) -> Image.Image:
    """A photograph, resized by `zoom`."""
    if zoom == 1.0:
        return photo
    size = round(photo.width * zoom), round(photo.height * zoom)
    return photo.resize(size, Image.Resampling.BICUBIC)


def reduced(photo: Image.Image, scale: int) -> Pair:
    """(h, w, 3) uint8 bicubic reduction of a photograph, and the (scale·h, scale·w, 3) original."""
    width, height = photo.width // scale, photo.height // scale
    large = photo.crop((0, 0, width * scale, height * scale))
    small = large.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(small), np.asarray(large)


def to_tensor(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 (h, w, 3) pictures -> (B, 3, h, w) in [-1, 1]."""
    stacked = np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))
    return torch.from_numpy(stacked).float() / 127.5 - 1


def _mirrored(start: int, crop: int, side: int, factor: int) -> np.ndarray:
    """Indices of a crop along an axis of a picture that goes on as in a mirror, as tiles have it.

    The mirror stands on the centre of the outermost small pixel, also for the large picture.
    """
    index = np.arange(start * factor, (start + crop) * factor)
    index = np.where(index < 0, factor - 1 - index, index)
    return np.where(index < side * factor, index, (2 * side - 1) * factor - 1 - index)


def _too_small(file: Path, size: tuple[int, int], crop: int) -> str:
    return f"{file} is {size[0]}x{size[1]}, smaller than a crop of {crop}x{crop}"
