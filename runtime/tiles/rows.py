"""Rows of a picture that is made from top to bottom and never whole in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

_BAND = 128
"""Rows that are resized at once."""

_LOBES = 3
"""Input pixels, at the output's spacing, that Lanczos looks at on either side."""


class Rows:
    """Forward access to the rows of a picture that arrives in bands.

    Args:
        bands: arrays (n, W, C) that together are the picture, top to bottom.
    """

    def __init__(self, bands: Iterable[np.ndarray]) -> None:
        self._bands = iter(bands)
        self._held: np.ndarray | None = None
        self._first = 0

    def take(self, first: int, last: int) -> np.ndarray:
        """The rows from `first` up to `last`, at least one: (last - first, W, C).

        Rows before `first` are given up: no later call may ask for them.

        Raises:
            ValueError: the picture has fewer rows.
        """
        parts = [] if self._held is None else [self._held[first - self._first :]]
        start = max(first, self._first)
        end = self._first + (0 if self._held is None else len(self._held))
        while end < last:
            band = next(self._bands, None)
            if band is None:
                raise ValueError(f"row {last} of a picture of {end} rows")
            parts.append(band[max(first - end, 0) :])
            end += len(band)
        self._held = parts[0] if len(parts) == 1 else np.concatenate(parts)
        self._first = start
        return self._held[: last - first]


def regroup(bands: Iterable[np.ndarray], height: int, count: int) -> Iterator[np.ndarray]:
    """The picture of `height` rows in bands of `count` rows, the last one with what remains."""
    rows = Rows(bands)
    for first in range(0, height, count):
        yield rows.take(first, min(first + count, height))


def downscale(
    bands: Iterable[np.ndarray], size: tuple[int, int], target: tuple[int, int]
) -> Iterator[np.ndarray]:
    """Scale a picture down with a Lanczos filter as wide as the reduction asks for.

    Args:
        bands: the picture of `size` (height, width) as float32 bands (n, W, C).
        size: (height, width) of the picture.
        target: (height, width) to reach, at most `size`.

    Yields:
        float32 (n, target width, C); the filter overshoots at edges.
    """
    rows, ratio = Rows(bands), size[0] / target[0]
    for top in range(0, target[0], _BAND):
        bottom = min(top + _BAND, target[0])
        start, stop = top * ratio, min(bottom * ratio, size[0])
        margin = _LOBES * ratio + 1
        first, last = max(int(start - margin), 0), min(int(stop + margin) + 1, size[0])
        window = rows.take(first, last)
        box = (0.0, start - first, float(size[1]), stop - first)
        planes = [
            Image.fromarray(np.ascontiguousarray(window[..., channel])).resize(
                (target[1], bottom - top), Image.Resampling.LANCZOS, box
            )
            for channel in range(window.shape[2])
        ]
        yield np.stack([np.asarray(plane) for plane in planes], axis=-1)


def quantize(band: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
    """Round values in [-1, 1] to the full range of uint8 or uint16; others are clipped."""
    half = np.float32(np.iinfo(dtype).max / 2)
    return np.rint((np.clip(band, -1.0, 1.0) + np.float32(1.0)) * half).astype(dtype)
