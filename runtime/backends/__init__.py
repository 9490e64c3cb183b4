"""Inference engines behind one small protocol, one file each.

To add an engine, derive a class from `Backend` in a file of its own, import the engine in its
constructor, and list it in `create`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from lpnsr.runtime.backends.base import Backend, BackendError
from lpnsr.runtime.bundle import Bundle, Graph

if TYPE_CHECKING:
    from lpnsr.runtime.backends.openvino import OpenVino

NAMES = ("auto", "onnxruntime", "openvino", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx")
PRECISIONS = ("auto", "fp32", "bf16")


def create(
    name: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    accurate: Collection[str] = ("fp32",),
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
    if "bf16" in bundle.manifest.precision.values():
        engine, _ = _on_cpu("openvino", threads, "auto", accurate)
        why = "ONNX Runtime has no bf16 on a CPU"
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
        return OnnxRuntime(threads), f"the fastest here in fp32; {_no_bf16(openvino, precision)}"
    except BackendError:
        return openvino, "no other engine is installed"


def _no_bf16(openvino: OpenVino, precision: str) -> str:
    if precision == "fp32":
        return "bf16 is not wanted"
    if openvino.has_bf16:
        return "this model is not accurate in bf16"
    return "the processor does not compute in bf16"
