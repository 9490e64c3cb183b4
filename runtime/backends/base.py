"""What inference engines are asked for, and what they raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lpnsr.runtime.tiles.tiling import Tile

ADVICE = "try another model or seed"
"""What may help if values are not finite even in the highest precision."""


class BackendError(RuntimeError):
    """An inference engine is not installed, or fails to load or to run a graph."""


class PrecisionError(BackendError):
    """The range of a precision was too small, and the engine has no higher one."""


class NotFiniteError(BackendError):
    """A tile's values are not finite.

    Args:
        number: of the tile, from 0.
        advice: what may help.
    """

    def __init__(self, number: int, advice: str = ADVICE) -> None:
        super().__init__(f"the values of tile {number} are not finite; {advice}")
        self.number, self.advice = number, advice


@dataclass(frozen=True)
class Task:
    """A picture to upscale.

    Attributes:
        picture: uint8 or uint16 (H, W, 3).
        tiles: the tiles it is cut into, row by row, each the size of the loaded graph's tile.
        scale: factor between the sides of input and output.
        seed: of the picture's noise.
        draws: number of noise draws that are made; the remaining ones are zero.
        color_limit: of the differences of large-scale colours that are corrected, see
            `color.correct`; 0 to leave them as they are.
        dtype: of the result: uint8 or uint16, where -1 becomes 0 and 1 the largest value, or
            float32.
        report: called with the number of finished tiles.
    """

    picture: np.ndarray
    tiles: Sequence[Tile]
    scale: int
    seed: int
    draws: int
    color_limit: float
    dtype: np.dtype
    report: Callable[[int], None]
