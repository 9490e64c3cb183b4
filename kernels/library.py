"""The compiled CPU face: `residual_shift.cpp`, reached through ctypes."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from collections.abc import Mapping
from ctypes import POINTER, c_float, c_uint32, c_void_p
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lpnsr.kernels.recurrence import Step

_TENSORS = ("x", "x0", "y", "mean", "logvar", "weight", "eps")


class _Update(ctypes.Structure):
    """Mirrors `Update` in residual_shift.cpp."""

    _fields_ = (
        [(name, c_float) for name in ("state", "prediction", "start", "noise", "next_scale")]
        + [(name, c_uint32) for name in ("draw", "batch", "channels", "height", "width")]
        + [(name, c_void_p) for name in ("origins", *_TENSORS, "out", "scaled")]
    )


def installed(name: str) -> Path | None:
    """A built file of this package; None where it was not built.

    An editable install keeps them in another folder than the sources.
    """
    folders = sys.modules[__package__].__path__
    found = (Path(folder) / name for folder in folders)
    return next((path for path in found if path.is_file()), None)


def _load() -> ctypes.CDLL | None:
    path = installed("libresidual_shift" + (".dll" if os.name == "nt" else ".so"))
    if path is None:
        return None
    library = ctypes.CDLL(str(path))
    if library.lpnsr_update_size() != ctypes.sizeof(_Update):
        warnings.warn(f"{path} is of another version; install lpnsr again", stacklevel=2)
        return None
    library.lpnsr_residual_shift.argtypes = [POINTER(_Update), c_uint32]
    library.lpnsr_residual_shift.restype = None
    library.lpnsr_philox4x32.argtypes = [c_void_p, c_uint32, c_uint32, c_uint32, c_void_p]
    library.lpnsr_philox4x32.restype = None
    return library


LIBRARY = _load()
"""None where it was not built."""


def philox4x32(counters: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """The words of `reference.philox4x32`, from the library.

    Args:
        counters: uint32 (n, 4).
        key: two words below 2**32.

    Returns:
        uint32 (n, 4).
    """
    counters = np.ascontiguousarray(counters, dtype=np.uint32)
    words = np.empty_like(counters)
    assert LIBRARY is not None, "lpnsr was built without a C++ compiler"
    LIBRARY.lpnsr_philox4x32(counters.ctypes.data, len(counters), *key, words.ctypes.data)
    return words


def update(
    step: Step,
    tensors: Mapping[str, np.ndarray | None],
    draw: int,
    origins: np.ndarray | None,
    out: np.ndarray,
    scaled: np.ndarray | None,
    threads: int,
) -> None:
    """Does and takes what `reference.update` does, in one pass; `out` must be contiguous."""
    factors = (step.state, step.prediction, step.start, step.noise, step.next_scale)
    # The arrays have to outlive the call, also those that are contiguous copies.
    sources = [origins, *(tensors.get(name) for name in _TENSORS)]
    sources = [None if source is None else np.ascontiguousarray(source) for source in sources]
    pointers = [_address(array) for array in (*sources, out, scaled)]
    update = _Update(*factors, draw, *out.shape, *pointers)
    assert LIBRARY is not None, "lpnsr was built without a C++ compiler"
    LIBRARY.lpnsr_residual_shift(update, threads)


def _address(array: np.ndarray | None) -> int | None:
    # `array.ctypes` would take longer than a small step.
    return None if array is None else array.__array_interface__["data"][0]
