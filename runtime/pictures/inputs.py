"""Pictures as programs hand them over, and results in the same form."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lpnsr.runtime.pictures import images

_MODES = ("L", "LA", "RGB", "RGBA")
"""Of PIL images that are taken as they are, by the number of their channels."""


@dataclass(frozen=True)
class Given:
    """A picture as it was handed over.

    Attributes:
        pixels: uint8 or uint16 (H, W, C); C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for
            RGB and alpha.
        dtype: that the result is computed in: that of `pixels`, or float32 in [-1, 1].
        restore: makes of the result, (s·H, s·W, C) of `dtype`, what the picture was.
    """

    pixels: np.ndarray
    dtype: np.dtype
    restore: Callable[[np.ndarray], Any]


@dataclass(frozen=True)
class Batch:
    """Several pictures.

    Attributes:
        pictures: each of them.
        restore: makes of their results what the batch was.
    """

    pictures: Sequence[Any]
    restore: Callable[[list[Any]], Any]


def batch(pictures: Any) -> Batch | None:
    """The pictures of a list, a tuple, an array (N, H, W, C) or a tensor (N, C, H, W).

    Returns None if it is none of these, and maybe one picture.
    """
    if isinstance(pictures, list | tuple):
        return Batch(pictures, list)
    if getattr(pictures, "ndim", 0) != 4 or not len(pictures):
        return None
    return Batch(pictures, sys.modules["torch"].stack if _is_tensor(pictures) else np.stack)


def convert(picture: Any) -> Given:
    """Take a picture that a program hands over.

    Args:
        picture: an array (H, W) or (H, W, C): uint8, uint16, or floating-point in [0, 1]. The
            latter is rounded to 16 bits, as that is what the model is given; its result is float32
            in [0, 1] and not rounded. A PyTorch tensor is taken for an array (C, H, W) and gives a
            tensor. What else has `__array__` or, on the CPU, `__dlpack__` gives an array. A PIL
            image in mode L, LA, RGB or RGBA gives an image. The path of a file gives an array, of
            grey (H, W).

    Raises:
        ValueError: it is something else, empty, or out of range.
        ImageError: the file cannot be read.
    """
    if isinstance(picture, Image.Image):
        if picture.mode not in _MODES:
            raise ValueError(
                f"an image of mode {picture.mode} is none of {', '.join(_MODES)}; convert it with: "
                '.convert("RGB")'
            )
        return _array(np.asarray(picture), Image.fromarray)
    if isinstance(picture, str | os.PathLike):
        pixels = images.read(Path(picture)).pixels
        return _array(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if _is_tensor(picture):
        return _tensor(picture)
    if hasattr(picture, "__array__"):
        return _array(np.asarray(picture))
    if hasattr(picture, "__dlpack__"):
        return _array(_from_dlpack(picture))
    raise ValueError(f"expected an array, a PIL image or a path, got {type(picture).__name__}")


def _from_dlpack(picture: Any) -> np.ndarray:
    try:
        return np.from_dlpack(picture)
    except (BufferError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"NumPy cannot take the {type(picture).__name__} ({error}); copy it to the CPU"
        ) from error


def _array(pixels: np.ndarray, restore: Callable[[np.ndarray], Any] = np.asarray) -> Given:
    """An array (H, W) or (H, W, C), and what makes of the result's array what it came from."""
    whole = restore
    if pixels.ndim == 2:
        pixels, whole = pixels[..., None], lambda result: restore(result[..., 0])
    if not np.issubdtype(pixels.dtype, np.floating):
        return Given(check(pixels), pixels.dtype, whole)
    if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            "a floating-point picture has values in [0, 1], this one goes from "
            f"{pixels.min():g} to {pixels.max():g}"
        )
    deep = np.rint(pixels.astype(np.float64) * 65535).astype(np.uint16)
    return Given(check(deep), np.dtype(np.float32), lambda result: whole((result + 1) / 2))


def _tensor(tensor: Any) -> Given:
    """A tensor (C, H, W), or (H, W)."""
    torch = sys.modules["torch"]
    try:
        pixels = np.asarray(tensor)
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"NumPy cannot take the tensor ({error}); hand over .detach().cpu().float()"
        ) from error
    if pixels.ndim == 2:
        return _array(pixels, torch.from_numpy)
    if pixels.ndim != 3 or not 1 <= len(pixels) <= 4:
        raise ValueError(f"expected a tensor (C, H, W), C from 1 to 4, got {pixels.shape}")

    def restore(result: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(result.transpose(2, 0, 1)))

    return _array(pixels.transpose(1, 2, 0), restore)


def _is_tensor(picture: Any) -> bool:
    """Whether it is PyTorch's; does not import that, since whoever has a tensor has done so."""
    return any(kind.__module__.split(".")[0] == "torch" for kind in type(picture).__mro__)


def check(pixels: np.ndarray, channels: Sequence[int] = (1, 2, 3, 4)) -> np.ndarray:
    """The pixels, if they are uint8 or uint16 (H, W, C) with a number of channels that is allowed.

    Raises:
        ValueError: they are not, or there are none.
    """
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"expected an array, got {type(pixels).__name__}")
    shaped = pixels.ndim == 3 and pixels.shape[2] in channels
    if pixels.dtype not in (np.uint8, np.uint16) or not shaped:
        wanted = f"C from 1 to {channels[-1]}" if len(channels) > 1 else f"C = {channels[0]}"
        raise ValueError(
            f"expected uint8, uint16 or floating-point (H, W, C), {wanted}, got {pixels.dtype} "
            f"{pixels.shape}"
        )
    if pixels.size == 0:
        raise ValueError(f"a picture of shape {pixels.shape} has no pixels")
    return pixels
