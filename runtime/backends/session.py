"""What an inference engine is: a backend loads graphs, a session is a graph that upscales."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np

from lpnsr.runtime.backends.base import Task
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import Graph


class Session(ABC):
    """One graph in an inference engine, safe to use from several threads at the same time.

    Args:
        bundle: of the graph.
        graph: what is loaded.

    Attributes:
        manifest: of the bundle.
        graph: what is loaded.
    """

    def __init__(self, bundle: Bundle, graph: Graph) -> None:
        self.manifest, self.graph = bundle.manifest, graph

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

    @abstractmethod
    def bands(self, task: Task) -> Generator[np.ndarray, None, None]:
        """Upscale a whole picture; errors are those of `run`.

        Yields:
            `task.dtype` (n, scale·W, 3); the bands together are the output, top to bottom.

        Raises:
            NotFiniteError: the values of a tile are not finite.
        """


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
        """Threads that batches which are computed at the same time can divide among themselves."""
        return 1

    def divided(self, count: int) -> Backend:
        """The same engine, but for `count` batches at a time, each on its share of the threads."""
        return self

    def check(self, bundle: Bundle, graphs: Sequence[Graph]) -> None:
        """Check that these graphs can be run, without loading them.

        Raises:
            BackendError: one cannot.
        """
        return  # Most engines say so when they load a graph.

    def describe(self) -> str:
        """Name and version of the engine and the device that it runs on."""
