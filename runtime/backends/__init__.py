"""Inference engines behind one small protocol, one file each.

To add an engine, write a class that follows `Backend` in a file of its own, import the engine in
its constructor, and list it in `create`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lpnsr.runtime.bundle import Bundle, Graph

if TYPE_CHECKING:
    from lpnsr.runtime.backends.openvino import OpenVino

NAMES = ("auto", "onnxruntime", "openvino")
PRECISIONS = ("auto", "f32", "bf16")


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


def create(
    name: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    accurate: Collection[str] = ("f32",),
) -> tuple[Backend, str]:
    """The inference engine called `name`, and why it.

    Args:
        name: one of `NAMES`; "auto" takes the fastest that is installed.
        threads: CPU threads per operation; by default the engine decides.
        precision: one of `PRECISIONS`; "auto" takes the fastest that is accurate.
        accurate: precisions in which the model was found accurate at export.

    Returns:
        the engine and, in a few words, the reason for it.

    Raises:
        BackendError: no such engine or precision, or it is not installed.
    """
    if name not in NAMES:
        raise BackendError(f"there is no backend {name}; choose from {', '.join(NAMES)}")
    if precision not in PRECISIONS:
        raise BackendError(f"there is no precision {precision}; it is {', '.join(PRECISIONS)}")
    from lpnsr.runtime.backends.onnxruntime import OnnxRuntime
    from lpnsr.runtime.backends.openvino import OpenVino

    if name == "onnxruntime":
        return OnnxRuntime(threads, precision), "as asked"
    if name == "openvino" or precision == "bf16":
        return OpenVino(threads, precision, accurate), "as asked"
    try:
        openvino = OpenVino(threads, precision, accurate)
    except BackendError:
        return OnnxRuntime(threads), "no other engine is installed"
    if openvino.precision == "bf16":
        return openvino, "the fastest here, as the processor computes in bf16"
    try:
        return OnnxRuntime(threads), f"the fastest here in f32; {_no_bf16(openvino, precision)}"
    except BackendError:
        return openvino, "no other engine is installed"


def _no_bf16(openvino: OpenVino, precision: str) -> str:
    if precision == "f32":
        return "bf16 is not wanted"
    if openvino.has_bf16:
        return "this model is not accurate in bf16"
    return "the processor does not compute in bf16"
