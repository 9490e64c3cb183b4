"""Convolutions with fewer multiplications: `winograd.cpp`, for ONNX Runtime and through ctypes."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_float, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import numpy as np

from lpnsr.kernels.library import installed

DOMAIN, OPERATOR = "lpnsr", "WinogradConv"
"""What ONNX Runtime knows the operator by; `winograd.cpp` says what it computes."""


def library() -> Path | None:
    """The library to register with ONNX Runtime; None where it was not built."""
    return installed("libwinograd" + (".dll" if os.name == "nt" else ".so"))


@cache
def _functions() -> ctypes.CDLL:
    path = library()
    assert path is not None, "lpnsr was built without a C++ compiler that has vector types"
    functions = ctypes.CDLL(str(path))
    functions.lpnsr_winograd_lanes.argtypes = [c_size_t]
    functions.lpnsr_winograd_lanes.restype = c_int
    functions.lpnsr_winograd.argtypes = [*[c_size_t] * 6, c_float, *[c_void_p] * 5]
    functions.lpnsr_winograd.restype = c_int
    return functions


def has_lanes(lanes: int) -> bool:
    """Whether this processor, and this library, have vectors of 4, 8 or 16 floats."""
    return bool(_functions().lpnsr_winograd_lanes(lanes))


def convolve(
    x: np.ndarray,
    weights: np.ndarray,
    bias: np.ndarray,
    residual: np.ndarray | None = None,
    slope: float = 1.0,
    lanes: int = 0,
    threads: int = 1,
) -> np.ndarray:
    """A convolution of stride 1 with a border of 1, on one thread.

    The method is F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural
    Networks" (2016).

    Args:
        x: float32 (C, h, w).
        weights: float32 (K, C, 3, 3).
        bias: float32 (K,).
        residual: float32 (K, h, w), which is added.
        slope: factor of what is negative then.
        lanes: floats in a vector, 4, 8 or 16; by default as many as the processor has.
        threads: how many the work is divided for; the result is the same.

    Returns:
        float32 (K, h, w).

    Raises:
        ValueError: this processor has no such vectors.
    """
    channels, height, width = x.shape
    made = len(weights)
    given = [np.ascontiguousarray(a, np.float32) for a in (weights, bias, x)]
    assert given[0].shape == (made, channels, 3, 3) and given[1].shape == (made,)
    added = None if residual is None else np.ascontiguousarray(residual, np.float32)
    assert added is None or added.shape == (made, height, width)
    result = np.empty((made, height, width), np.float32)
    pointers = [*(a.ctypes.data for a in given), None if added is None else added.ctypes.data]
    sizes = (lanes, threads, channels, made, height, width)
    if _functions().lpnsr_winograd(*sizes, slope, *pointers, result.ctypes.data):
        raise ValueError(f"this processor has no vectors of {lanes} floats")
    return result
