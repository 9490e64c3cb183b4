"""Cuts a picture into overlapping tiles and blends the upscaled tiles without a seam."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

ALIGNMENT = 8
"""Tiles start at multiples of this many pixels, the side of the networks' attention windows."""

FADE = 0.5
"""Share of the overlap over which two tiles are cross-faded. The rest, half of it on either side,
guards against the borders of the tiles, where convolutions have seen zeros instead of pixels."""


class TilingError(ValueError):
    """The asked-for tiling is impossible."""


@dataclass(frozen=True)
class Span:
    """One tile along one axis.

    Attributes:
        start: the tile's first pixel in the picture.
        source: (tile,) picture index behind each pixel of the tile; beyond the end of the picture
            the indices run back, as in a mirror.
        weight: (n,) float32 share of this tile in each of the output pixels that it reaches, n at
            most tile·scale. At every output pixel the weights of an axis sum to 1.
    """

    start: int
    source: np.ndarray
    weight: np.ndarray

    def target(self, scale: int) -> slice:
        """The output pixels that belong to `weight`."""
        return slice(self.start * scale, self.start * scale + len(self.weight))


@dataclass(frozen=True)
class Tile:
    """A rectangle of the picture, the size of the graph's input."""

    rows: Span
    columns: Span

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """The tile's pixels, (h, w, C), of a picture (H, W, C)."""
        return picture[self.rows.source[:, None], self.columns.source]

    def blend(self, upscaled: np.ndarray, output: np.ndarray, scale: int) -> None:
        """Add this tile's share to the rows of the output that the tile reaches.

        Args:
            upscaled: the tile upscaled, (scale·h, scale·w, C).
            output: float32 (n, scale·W, C), n at least `len(rows.weight)`, whose first row is row
                `scale * rows.start` of the whole output: zeros plus what earlier tiles have added.
            scale: factor between the sides of input and output.
        """
        weight = self.rows.weight[:, None] * self.columns.weight
        height, width = weight.shape
        region = output[:height, self.columns.target(scale)]
        region += weight[..., None] * upscaled[:height, :width]


def plan(
    size: tuple[int, int], tile: tuple[int, int], overlaps: tuple[int, int], scale: int
) -> list[Tile]:
    """The fewest tiles that cover a picture, row by row.

    Args:
        size: (height, width) of the picture.
        tile: (height, width) of a tile, multiples of `ALIGNMENT`.
        overlaps: rows and columns that neighbouring tiles share at least.
        scale: factor between the sides of input and output.

    Raises:
        TilingError: see `check`.
    """
    for overlap in overlaps:
        check(tile, overlap)
    rows = _spans(size[0], tile[0], overlaps[0], scale)
    columns = _spans(size[1], tile[1], overlaps[1], scale)
    return [Tile(row, column) for row in rows for column in columns]


def count(size: int, tile: int, overlap: int) -> int:
    """Number of tiles that `plan` takes along one axis."""
    return len(_starts(_covered(size, tile), tile, overlap))


def check(tile: tuple[int, int], overlap: int) -> None:
    """Refuse a tile or an overlap with which pictures cannot be covered.

    Raises:
        TilingError: a tile's side is not a multiple of `ALIGNMENT`, or the overlap is negative or
            leaves a tile less than `ALIGNMENT` pixels to advance by.
    """
    if any(side % ALIGNMENT for side in tile):
        raise TilingError(f"tile {tile[0]}x{tile[1]} is not a multiple of {ALIGNMENT} pixels")
    largest = min(tile) - ALIGNMENT
    if not 0 <= overlap <= largest:
        raise TilingError(
            f"overlap {overlap} does not fit tile {tile[0]}x{tile[1]}; choose 0 to {largest}"
        )


def _spans(size: int, tile: int, overlap: int, scale: int) -> list[Span]:
    starts = _starts(_covered(size, tile), tile, overlap)
    pixels = np.arange(tile)
    return [
        Span(start, _mirror(start + pixels, size), weight[: (size - start) * scale])
        for start, weight in zip(starts, _weights(starts, tile, overlap, scale), strict=True)
    ]


def _covered(size: int, tile: int) -> int:
    """Pixels that tiles cover along one axis: those of the picture, and what fills a window."""
    return max(tile, -(-size // ALIGNMENT) * ALIGNMENT)


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixels of the fewest tiles that cover `length`, spread evenly."""
    steps = (length - tile) // ALIGNMENT
    gaps = -(-steps // ((tile - overlap) // ALIGNMENT))
    return [ALIGNMENT * (i * steps // max(gaps, 1)) for i in range(gaps + 1)]


def _mirror(index: np.ndarray, size: int) -> np.ndarray:
    """Reflect indices at both ends of a side of `size` pixels, as often as needed."""
    period = max(2 * size - 2, 1)
    index = index % period
    return np.minimum(index, period - index)


def _weights(starts: list[int], tile: int, overlap: int, scale: int) -> list[np.ndarray]:
    """Weight of each tile at its own output pixels, (tile·scale,) float32.

    Between two tiles a ramp rises from 0 to 1, centred in their overlap. A tile's weight is the
    ramp at its start minus the ramp at its end, so the weights of all tiles sum to 1. The ramps are
    equally wide, also where tiles overlap by more than `overlap`, hence no weight is negative.
    """
    width = max(FADE * overlap * scale, 1.0)
    centres = [(a + b + tile) / 2 * scale for a, b in pairwise(starts)]
    pixels = np.arange(tile * scale) + 0.5

    def ramp(start: int, centre: float) -> np.ndarray:
        return np.clip((start * scale + pixels - centre) / width + 0.5, 0.0, 1.0)

    rising = [-np.inf, *centres]
    falling = [*centres, np.inf]
    return [
        (ramp(start, a) - ramp(start, b)).astype(np.float32)
        for start, a, b in zip(starts, rising, falling, strict=True)
    ]
