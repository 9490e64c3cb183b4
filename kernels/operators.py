"""Our operators for ONNX Runtime, also through ctypes: convolutions, group norms, attention."""

from __future__ import annotations

import ctypes
import os
from ctypes import c_float, c_int, c_size_t, c_void_p
from functools import cache
from pathlib import Path

import numpy as np

from lpnsr.kernels.library import installed

DOMAIN = "lpnsr"
CONV, UPSAMPLE = "WinogradConv", "WinogradUpsample"
GROUP_NORM, ATTENTION = "GroupNorm", "WindowAttention"
"""What ONNX Runtime knows the operators by; the C++ files say what they compute."""


def library() -> Path | None:
    """The library to register with ONNX Runtime; None where it was not built."""
    return installed("liboperators" + (".dll" if os.name == "nt" else ".so"))


@cache
def _functions() -> ctypes.CDLL:
    path = library()
    assert path is not None, "lpnsr was built without a C++ compiler that has vector types"
    functions = ctypes.CDLL(str(path))
    functions.lpnsr_winograd_lanes.argtypes = [c_size_t]
    functions.lpnsr_winograd_lanes.restype = c_int
    functions.lpnsr_winograd.argtypes = [*[c_size_t] * 7, c_float, *[c_void_p] * 5]
    functions.lpnsr_winograd.restype = c_int
    functions.lpnsr_group_norm.argtypes = [*[c_size_t] * 4, c_float, c_int, *[c_void_p] * 4]
    functions.lpnsr_group_norm.restype = c_int
    functions.lpnsr_attention.argtypes = [*[c_size_t] * 5, c_float, *[c_void_p] * 4]
    functions.lpnsr_attention.restype = c_int
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
    """A convolution of stride 1 with a border of 1, on one thread; behind an upsampling, too.

    The method is F(4x4, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural
    Networks" (2016).

    Args:
        x: float32 (C, h, w).
        weights: float32 (K, C, 3, 3); or (4, K, C, 2, 2) for what a nearest x2 upsampling and a
            convolution come to, see `lpnsr.export.graph.passes.upsample_phases`.
        bias: float32 (K,).
        residual: float32 like the result, which is added.
        slope: factor of what is negative then.
        lanes: floats in a vector, 4, 8 or 16; by default as many as the processor has.
        threads: how many the work is divided for; the result is the same.

    Returns:
        float32 (K, h, w), or (K, 2h, 2w) with the upsampling.

    Raises:
        ValueError: this processor has no such vectors.
    """
    channels, height, width = x.shape
    made, scale = len(bias), 1 if weights.ndim == 4 else 2
    expected = (made, channels, 3, 3) if scale == 1 else (4, made, channels, 2, 2)
    assert weights.shape == expected and bias.shape == (made,)
    given = [np.ascontiguousarray(a, np.float32) for a in (weights, bias, x)]
    result = np.empty((made, scale * height, scale * width), np.float32)
    added = None if residual is None else np.ascontiguousarray(residual, np.float32)
    assert added is None or added.shape == result.shape
    pointers = [*(a.ctypes.data for a in given), None if added is None else added.ctypes.data]
    sizes = (lanes, threads, channels, made, height, width, scale)
    if _functions().lpnsr_winograd(*sizes, slope, *pointers, result.ctypes.data):
        raise ValueError(f"this processor has no vectors of {lanes} floats")
    return result


def group_norm(
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    groups: int,
    epsilon: float,
    swish: bool = False,
    lanes: int = 0,
) -> np.ndarray:
    """Group normalisation, on one thread: Wu and He, "Group Normalization" (2018).

    Args:
        x: float32 (C, n).
        weight: float32 (C,).
        bias: float32 (C,).
        groups: how many the channels are divided into; divides C.
        epsilon: added to the variances.
        swish: whether z / (1 + exp(-z)) follows.
        lanes: as in `convolve`.

    Returns:
        float32 (C, n).

    Raises:
        ValueError: this processor has no such vectors.
    """
    channels, plane = x.shape
    assert channels % groups == 0 and weight.shape == bias.shape == (channels,)
    given = [np.ascontiguousarray(a, np.float32) for a in (weight, bias, x)]
    result = np.empty((channels, plane), np.float32)
    pointers = [a.ctypes.data for a in (*given, result)]
    sizes = (lanes, groups, channels, plane)
    if _functions().lpnsr_group_norm(*sizes, epsilon, swish, *pointers):
        raise ValueError(f"this processor has no vectors of {lanes} floats")
    return result


def attention(
    tokens: np.ndarray,
    scale: float,
    bias: np.ndarray,
    mask: np.ndarray | None = None,
    lanes: int = 0,
) -> np.ndarray:
    """Multi-head attention inside windows, on one thread.

    Source: Liu et al., "Swin Transformer" (2021), section 3.2.

    Args:
        tokens: queries, keys and values, float32 (windows, area, 3C); the area is a multiple of 16.
        scale: factor of the queries.
        bias: added to the scores, float32 (heads, area, area).
        mask: added to those of each window, float32 (windows, area, area).
        lanes: as in `convolve`.

    Returns:
        float32 (windows, area, C).

    Raises:
        ValueError: this processor has no such vectors.
    """
    (windows, area, values), heads = tokens.shape, len(bias)
    channels = values // 3
    assert bias.shape == (heads, area, area) and area % 16 == 0 and channels % heads == 0
    given = [np.ascontiguousarray(a, np.float32) for a in (tokens, bias)]
    added = None if mask is None else np.ascontiguousarray(mask, np.float32)
    assert added is None or added.shape == (windows, area, area)
    result = np.empty((windows, area, channels), np.float32)
    pointers = [*(a.ctypes.data for a in given), None if added is None else added.ctypes.data]
    sizes = (lanes, windows, heads, area, channels // heads)
    if _functions().lpnsr_attention(*sizes, scale, *pointers, result.ctypes.data):
        raise ValueError(f"this processor has no vectors of {lanes} floats")
    return result
