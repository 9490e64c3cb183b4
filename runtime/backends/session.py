"""A graph that is loaded and ready to run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator

import numpy as np

from lpnsr.runtime.backends import host_pictures
from lpnsr.runtime.backends.base import ADVICE, PrecisionError, Task
from lpnsr.runtime.backends.host_pictures import TileInput
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.tiles.batches import Batches


class Session(ABC):
    """One graph in an inference engine, safe to use from several threads at the same time.

    Args:
        bundle: of the graph.
        graph: what is loaded.

    Attributes:
        manifest: of the bundle.
        graph: what is loaded.
        batches: where the pictures of several threads share batches.
    """

    def __init__(self, bundle: Bundle, graph: Graph) -> None:
        self.manifest, self.graph = bundle.manifest, graph
        self.batches: Batches[TileInput, np.ndarray | str] = Batches(graph.batch)

    def estimate(self, lr: np.ndarray) -> dict[str, np.ndarray]:
        """What the graph's stages for a whole picture make of one batch of its tiles.

        Args:
            lr: float32 (B, 3, h, w) in [-1, 1].

        Returns:
            name -> float32 (B, ...), see `Graph.given`; errors are those of `run`.
        """
        return {}

    @abstractmethod
    def run(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """Upscale one batch.

        Args:
            lr: float32 (B, 3, h, w) in [-1, 1].
            noise: float32 (K, B, C, h', w'), with the sizes of a latent.
            **given: what was made for the whole picture, by name (`Graph.given`).

        Returns:
            float32 (B, 3, scale·h, scale·w) in [-1, 1].

        Raises:
            BackendError: the engine fails.
            MemoryError: the device or the machine has too little memory.
        """

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """The same as `run` at the highest precision that the engine has.

        Called when `run` returns values that are not finite.

        Raises:
            PrecisionError: the engine has no higher precision; says what may help.
        """
        raise PrecisionError(ADVICE)

    def bands(self, task: Task) -> Generator[np.ndarray, None, None]:
        """Upscale a whole picture; errors are those of `run`.

        By default the host cuts and blends the tiles, and `run` computes them.

        Yields:
            `task.dtype` (n, scale·W, 3); the bands together are the output, top to bottom.

        Raises:
            NotFiniteError: the values of a tile are not finite.
        """
        return host_pictures.bands(self, task)
