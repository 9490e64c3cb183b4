"""What was measured on which machine: its name, its versions, and how fast it multiplies."""

from __future__ import annotations

import os
import platform
import re
import resource
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from lpnsr.export.engines import run_openvino
from lpnsr.export.graph import GraphBuilder, float_input

PACKAGES = ("lpnsr", "torch", "onnxruntime", "openvino", "numpy")


def environment() -> dict[str, object]:
    """Processor, cores, operating system and versions."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def matrix_rate(precision: str, size: int = 2048, runs: int = 9) -> float:
    """Multiply-accumulates per second in square matrix products, the best of engines and runs.

    Args:
        precision: "f32" or "bf16".
        size: side of the matrices.
        runs: how many.
    """
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    x, y = (torch.from_numpy(matrix) for matrix in (a, b))
    products = [lambda: x @ y, _compiled(a, b, precision)]
    if precision == "bf16":
        x, y = x.bfloat16(), y.bfloat16()
    return size**3 / min(_seconds(product) for product in products for _ in range(runs))


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


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory() -> int:
    """Most bytes that this process has held in memory at once."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # Unlike getrusage, this does not begin with what the parent process held.
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
