"""Pictures as programs hand them over, and results in the same form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Given:
    """A picture as it was handed over.

    Attributes:
        pixels: uint8 or uint16 (H, W, 3), RGB.
        dtype: that the result is computed in: that of `pixels`, or float32 in [-1, 1].
        restore: makes of the result, (s·H, s·W, 3) of `dtype`, what the picture was.
    """

    pixels: np.ndarray
    dtype: np.dtype
    restore: Callable[[np.ndarray], Any]


def convert(picture: np.ndarray | Image.Image) -> Given:
    """Take a picture that a program hands over.

    Args:
        picture: a PIL image in mode RGB, or an array (H, W, 3): uint8, uint16, or floating-point
            in [0, 1]. The latter is rounded to 16 bits, as that is what the model is given; its
            result is float32 in [0, 1] and not rounded.

    Raises:
        ValueError: it is something else, empty, or out of range.
    """
    if isinstance(picture, Image.Image):
        if picture.mode != "RGB":
            raise ValueError(
                f'an image of mode {picture.mode} is not RGB; convert it with: .convert("RGB")'
            )
        return _whole(np.asarray(picture), Image.fromarray)
    if isinstance(picture, np.ndarray) and np.issubdtype(picture.dtype, np.floating):
        if picture.size and not (picture.min() >= 0 and picture.max() <= 1):
            raise ValueError(
                "a floating-point picture has values in [0, 1], this one goes from "
                f"{picture.min():g} to {picture.max():g}"
            )
        deep = np.rint(picture.astype(np.float64) * 65535).astype(np.uint16)
        return Given(check(deep), np.dtype(np.float32), lambda result: (result + 1) / 2)
    return _whole(picture, lambda result: result)


def _whole(pixels: np.ndarray, restore: Callable[[np.ndarray], Any]) -> Given:
    return Given(check(pixels), pixels.dtype, restore)


def check(pixels: np.ndarray) -> np.ndarray:
    """The pixels, if they are uint8 or uint16 (H, W, 3).

    Raises:
        ValueError: they are not, or there are none.
    """
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"expected an array or a PIL image, got {type(pixels).__name__}")
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(
            f"expected uint8, uint16 or floating-point (H, W, 3), got {pixels.dtype} {pixels.shape}"
        )
    if pixels.size == 0:
        raise ValueError(f"a picture of shape {pixels.shape} has no pixels")
    return pixels
