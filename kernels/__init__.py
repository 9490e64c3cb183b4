"""The fused reverse step, with its noise read or made on the spot.

    x'     = state·x + prediction·x0 + start·y + noise·weight·(mean + exp(logvar/2)·eps)
    scaled = x'·next_scale

`reference` says it in NumPy, `residual_shift.h` in C++ for the CPU (`library`) and CUDA (`cuda`).
Without the library, for lack of a C++ compiler, NumPy does the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpnsr.kernels import library, reference
from lpnsr.kernels.recurrence import Step


def residual_shift(
    step: Step,
    x: np.ndarray,
    x0: np.ndarray | None = None,
    *,
    y: np.ndarray | None = None,
    mean: np.ndarray | None = None,
    logvar: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    eps: np.ndarray | None = None,
    draw: int = 0,
    origins: np.ndarray | None = None,
    out: tuple[np.ndarray, np.ndarray] | None = None,
    threads: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One reverse step on the CPU.

    All arrays but `origins` are float32 (B, C, h, w). Those left out count as 0, `weight` as 1. An
    array whose factor is 0 is not read.

    Args:
        step: the factors.
        x: state.
        x0: the denoiser's prediction.
        y: where the chain started.
        mean: mean of the noise.
        logvar: its log-variance, -174 to 176.
        weight: the noise's weight.
        eps: standard normal noise. Without it and `origins` there is only the mean.
        draw: which of the picture's noise draws to make.
        origins: uint32 (B, 4) from the function of this name, to make the noise instead of reading
            it.
        out: two arrays to write the result into. The first may be `x`.
        threads: CPU threads at most; all by default.

    Returns:
        The new state, and the same times `step.next_scale`.

    Raises:
        ValueError: an array has another shape or type, or there are both `eps` and `origins`.
    """
    if eps is not None and origins is not None:
        raise ValueError("noise is either read from eps or made from origins, not both")
    if origins is not None and (origins.dtype != np.uint32 or origins.shape != (len(x), 4)):
        raise ValueError(f"expected origins uint32 ({len(x)}, 4), got {_what(origins)}")
    tensors = {"x": x if step.state else None, "x0": x0 if step.prediction else None}
    tensors["y"] = y if step.start else None
    if step.noise:
        tensors |= {"mean": mean, "logvar": logvar, "weight": weight, "eps": eps}
    out = out or (np.empty(x.shape, np.float32), np.empty(x.shape, np.float32))
    if not all(array.flags.c_contiguous for array in out):
        raise ValueError("the arrays in out must be C-contiguous")
    for name, array in {"x": x, **tensors, "out": out[0], "scaled": out[1]}.items():
        if array is not None and (array.dtype != np.float32 or array.shape != x.shape):
            raise ValueError(f"expected {name} float32 {x.shape}, got {_what(array)}")
    _update(step, tensors, draw, origins if step.noise else None, *out, threads or 0)
    return out


def normals(
    seed: int, draws: int, channels: int, top: int, left: int, height: int, width: int
) -> np.ndarray:
    """Noise of one window of the latent plane; see `reference.normals`, which this is equal to.

    Args:
        seed: 0 to 2**64 - 1.
        draws: number K of draws.
        channels: number C of latent channels.
        top: row of the window's first value in the whole picture's latent.
        left: its column.
        height: rows of the window.
        width: columns of the window.

    Returns:
        float32 array (draws, channels, height, width).

    Raises:
        ValueError: the seed is out of range.
    """
    out = np.empty((draws, channels, height, width), dtype=np.float32)
    place = origins(seed, [(top, left)])
    for draw in range(draws):
        _update(Step(0, 0, noise=1), {}, draw, place, out[draw : draw + 1], None, 0)
    return out


def origins(seed: int, places: Sequence[tuple[int, int]]) -> np.ndarray:
    """What `residual_shift` has to know to make the noise of a batch.

    Args:
        seed: the picture's, 0 to 2**64 - 1.
        places: (row, column) of each batch item's first value in the whole picture's latent.

    Returns:
        uint32 (B, 4): row, column, lower and upper half of the seed.

    Raises:
        ValueError: the seed is out of range.
    """
    low, high = reference.key(seed)
    return np.array([(row, column, low, high) for row, column in places], dtype=np.uint32)


def _what(array: np.ndarray) -> str:
    return f"{array.dtype} {array.shape}"


_update = library.update if library.LIBRARY else reference.update
