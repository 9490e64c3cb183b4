"""Inference engines behind one small protocol, one file each.

To add an engine, write a class that follows `Backend` in a file of its own, import the engine in
its constructor, and list it in `create`.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lpnsr.runtime.bundle import Bundle, Graph

NAMES = ("auto", "onnxruntime")


class BackendError(RuntimeError):
    """An inference engine is not installed, or fails to load or to run a graph."""


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

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same as `run` at the highest precision that the engine has.

        Called when `run` gives values that are not finite. An engine that computes in one
        precision only runs again.
        """

    def describe(self) -> str:
        """Name and version of the engine and the device that it runs on."""


def create(name: str = "auto", threads: int | None = None) -> Backend:
    """The inference engine called `name`, one of `NAMES`.

    Args:
        name: "auto" takes the best engine that is installed.
        threads: CPU threads per operation; by default the engine decides.

    Raises:
        BackendError: no such engine, or it is not installed.
    """
    if name not in NAMES:
        raise BackendError(f"there is no backend {name}; choose from {', '.join(NAMES)}")
    from lpnsr.runtime.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime(threads)
