"""What all inference engines have in common: their protocol, their errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.tiles.tiling import Tile

if TYPE_CHECKING:
    from lpnsr.runtime.backends.session import Session

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
        color_fix: whether to take the large-scale colours from the picture.
        dtype: of the result: uint8 or uint16, where -1 becomes 0 and 1 the largest value, or
            float32.
        report: called with the number of finished tiles.
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
    """An inference engine on one device; loads graphs."""

    def load(self, bundle: Bundle, graph: Graph) -> Session:
        """Make a graph ready to run; graphs loaded before stay loaded.

        Raises:
            BackendError: the engine cannot load the graph.
            MemoryError: the device or the machine has too little memory.
            BundleError: the graph is not what the bundle's manifest says.
        """

    @property
    def threads(self) -> int:
        """Threads that pictures which are upscaled at the same time can divide among themselves."""
        return 1

    def share(self, count: int) -> Backend:
        """The same engine with one of `count` equal shares of its threads."""
        return self

    def check(self, bundle: Bundle, graphs: Sequence[Graph]) -> None:
        """Check that these graphs can be run, without loading them.

        Raises:
            BackendError: one cannot.
        """
        return  # Most engines say so when they load a graph.

    def describe(self) -> str:
        """Name and version of the engine and the device that it runs on."""
