"""What was measured on which machine: its name, its versions, and how fast it multiplies."""

from __future__ import annotations

import os
import platform
import re
import resource
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

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
    """Multiply-accumulates per second in square matrix products, the best of several runs.

    Args:
        precision: "f32" (the faster of NumPy and PyTorch) or "bf16" (PyTorch).
        size: side of the matrices.
        runs: how many.
    """
    a, b = np.random.default_rng(0).standard_normal((2, size, size), np.float32)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    pairs = [(a, b), (x, y)] if precision == "f32" else [(x.bfloat16(), y.bfloat16())]
    return size**3 / min(_seconds(*pair) for pair in pairs for _ in range(runs))


def _seconds(a: np.ndarray | torch.Tensor, b: np.ndarray | torch.Tensor) -> float:
    start = time.perf_counter()
    a @ b
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
