"""What all inference engines have in common: their protocol, their errors."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lpnsr.runtime.bundle import Bundle, Graph
from lpnsr.runtime.tiles.tiling import Tile

ADVICE = "try another model or seed"
"""What may help where values are not finite in the highest precision."""


class BackendError(RuntimeError):
    """An inference engine is not installed, or fails to load or to run a graph."""


class PrecisionError(BackendError):
    """An engine has no higher precision than the one whose range did not suffice."""


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
        tiles: what it is cut into, row by row, each as large as the loaded graph's tile.
        scale: factor between the sides of input and output.
        seed: of the picture's noise.
        draws: how many draws of it there are; the others are zero.
        color_fix: whether the large-scale colours are those of the picture.
        dtype: of the result: uint8 or uint16, where -1 becomes 0 and 1 the largest value, or
            float32.
        report: called with the number of tiles that are done.
    """

    picture: np.ndarray
    tiles: Sequence[Tile]
    scale: int
    seed: int
    draws: int
    color_fix: bool
    dtype: np.dtype
    report: Callable[[int], None]


class Backend(Protocol):
    """An inference engine that holds at most one loaded graph."""

    def load(self, bundle: Bundle, graph: Graph) -> None:
        """Make `graph` ready to run, in place of the one loaded before.

        Raises:
            BackendError: the engine cannot load the graph.
            MemoryError: the device's or the machine's memory does not suffice.
            BundleError: the graph is not what the bundle's manifest says.
        """

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch with the loaded graph.

        Args:
            lr: float32 (B, 3, h, w) in [-1, 1].
            noise: float32 (K, B, C, h, w).

        Returns:
            float32 (B, 3, scale·h, scale·w) in [-1, 1].

        Raises:
            BackendError: the engine fails.
            MemoryError: the device's or the machine's memory does not suffice.
        """

    def bands(self, task: Task) -> Generator[np.ndarray, None, None] | None:
        """Upscale a whole picture with the loaded graph; errors are those of `run`.

        Yields:
            `task.dtype` (n, scale·W, 3); the bands together are the output, top to bottom.

        Returns:
            None if the engine computes tiles alone, and the host does what is left.

        Raises:
            NotFiniteError: the values of a tile are not finite.
        """
        return None

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same as `run` at the highest precision that the engine has.

        Called when `run` gives values that are not finite.

        Raises:
            PrecisionError: the engine has no higher precision; says what may help.
        """
        raise PrecisionError(ADVICE)

    def describe(self) -> str:
        """Name and version of the engine and the device that it runs on."""
