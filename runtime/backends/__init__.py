"""Inference engines behind one small protocol, one file each.

To add an engine, derive a class from `Backend` in a file of its own, import the engine in its
constructor, and list it in `create`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lpnsr.runtime.bundle import Bundle, Graph
from lpnsr.runtime.tiling import Tile

if TYPE_CHECKING:
    from lpnsr.runtime.backends.openvino import OpenVino

NAMES = ("auto", "onnxruntime", "openvino", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
PRECISIONS = ("auto", "f32", "bf16")
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


def create(
    name: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    accurate: Collection[str] = ("f32",),
    bundle: Bundle | None = None,
    graphs: Sequence[Graph] = (),
) -> tuple[Backend, str]:
    """The inference engine called `name`, and why it.

    Args:
        name: one of `NAMES`; "auto" takes the fastest that is installed and can be used.
        threads: CPU threads per operation; by default the engine decides.
        precision: one of `PRECISIONS`; "auto" takes the fastest that is accurate.
        accurate: precisions in which the model was found accurate at export.
        bundle: where engines built for a GPU are; without it, "auto" takes a CPU.
        graphs: those of its graphs that may be run.

    Returns:
        the engine and, in a few words, the reason for it, and why not a faster one.

    Raises:
        BackendError: no such engine or precision, or it is not installed or cannot be used.
    """
    if name not in NAMES:
        raise BackendError(f"there is no backend {name}; choose from {', '.join(NAMES)}")
    if precision not in PRECISIONS:
        raise BackendError(f"there is no precision {precision}; it is {', '.join(PRECISIONS)}")
    if precision == "auto" and bundle and name == "auto":
        return _fastest(threads, accurate, bundle, graphs)
    if name in ("auto", "onnxruntime", "openvino"):
        return _on_cpu(name, threads, precision, accurate)
    if precision != "auto":
        raise BackendError("on a GPU the bundle says what is computed in; leave out --precision")
    return _on_gpu(name, bundle, graphs), "as asked"


def _fastest(
    threads: int | None, accurate: Collection[str], bundle: Bundle, graphs: Sequence[Graph]
) -> tuple[Backend, str]:
    """A GPU where the bundle or the installation is made for one, else a CPU."""
    from lpnsr.runtime.backends import onnxruntime_cuda

    built = {engine.builder for engine in bundle.manifest.engines}
    names = [name for name in NAMES if name in built]
    if onnxruntime_cuda.is_installed():
        names.append("onnxruntime-cuda")
    refused = []
    for name in names:
        try:
            return _on_gpu(name, bundle, graphs), "; ".join(["the fastest here", *refused])
        except BackendError as error:
            refused.append(f"not {name}: {error}")
    if "bfloat16" in bundle.manifest.precision.values():
        engine, _ = _on_cpu("openvino", threads, "auto", accurate)
        why = "ONNX Runtime has no bfloat16 on a CPU"
    else:
        engine, why = _on_cpu("auto", threads, "auto", accurate)
    return engine, "; ".join([why, *refused])


def _on_gpu(name: str, bundle: Bundle | None, graphs: Sequence[Graph]) -> Backend:
    from lpnsr.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
    from lpnsr.runtime.backends.tensorrt import TensorRt

    engine = OnnxRuntimeCuda() if name == "onnxruntime-cuda" else TensorRt(name)
    if bundle:
        engine.check(bundle, graphs)
    return engine


def _on_cpu(
    name: str, threads: int | None, precision: str, accurate: Collection[str]
) -> tuple[Backend, str]:
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


def cache_folder() -> Path:
    """Where compiled graphs are kept: `lpnsr` in `$XDG_CACHE_HOME`, by default `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lpnsr"
