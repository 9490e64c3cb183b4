"""What was measured on which machine: its name, its versions, and how fast it multiplies."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import psutil
import torch

from lpnsr.benchmarks.timing import seconds
from lpnsr.export.check.run_onnx import computes_bf16, run_openvino
from lpnsr.export.graph.builder import GraphBuilder, float_input
from lpnsr.runtime.command.listing import processor

RATES = "GMAC/s in matrix products"
"""Where results keep what `rates` returns."""

PACKAGES = (
    "lpnsr",
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "numpy",
)


def environment() -> dict[str, Any]:
    """Processor, cores, GPU, operating system and versions."""
    return {
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "memory, GB": round(psutil.virtual_memory().total / 1e9, 1),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES if _version(name)},
    }


def rates(known: Mapping[str, float] | None = None) -> dict[str, float]:
    """Precision -> billions of multiply-accumulates per second in matrix products.

    Args:
        known: what was measured before; the better counts, as other work only ever slows it down.
    """
    names = ["fp32", "bf16"] if computes_bf16() or torch.cuda.is_available() else ["fp32"]
    if torch.cuda.is_available():
        names.append("fp16")
    known = known or {}
    return {name: max(round(matrix_rate(name) / 1e9), known.get(name, 0)) for name in names}


def matrix_rate(precision: str, size: int = 2048, runs: int = 9) -> float:
    """Multiply-accumulates per second in square matrix products, the best of engines and runs.

    Args:
        precision: "fp32", "bf16" or, on a GPU, "fp16".
        size: side of the matrices.
        runs: how many.
    """
    if torch.cuda.is_available():
        size *= 4
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (torch.from_numpy(matrix).to(device, dtype) for matrix in (a, b))
    products: list[Callable[[], object]] = [lambda: x @ y]
    if device == "cpu" and _version("openvino"):
        products.append(_compiled(a, b, precision))
    return size**3 / min(seconds(product) for product in products for _ in range(runs))


def _compiled(a: np.ndarray, b: np.ndarray, precision: str) -> Callable[[], object]:
    """The product in OpenVINO."""
    graph = GraphBuilder()
    left = float_input("a", a.shape)
    product = graph.op("MatMul", left, graph.constant("b", b))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "product.onnx"
        ir.save(graph.model("product", [left], [product]), file)
        run = run_openvino(file, precision)
    return lambda: run({"a": a})


def peak_memory() -> int:
    """Most bytes that this process has held in memory at once."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Unlike getrusage, this does not begin with what the parent process held.
    (most,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(most) * 1024


def device_memory() -> int | None:
    """Bytes in use on the GPU, by whichever process; None without an NVIDIA GPU."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True)
    return int(done.stdout.split()[0]) << 20 if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
