"""Wavelet colour fix: detail from the model, large-scale colour from the input."""

from __future__ import annotations

import cv2
import numpy as np

LEVELS = 5
HALO = 10
"""Input pixels around a region that can influence its correction: 2 of the bicubic kernel and
1 + 2 + 4 + 8 + 16 = 31 output pixels of the blur, rounded up."""


def correct(sr: np.ndarray, lr: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Replace the low frequencies of `sr` by those of `lr` upscaled with bicubic interpolation.

    The low frequencies are what five blurs leave; as blurring is linear, this is
    `clip(sr + blur(bicubic(lr) - sr))`. Blurred, what a model adds to an edge ends as a halo around
    it: with a limit, what differs by more is taken for detail, and only so much of it is blurred.

    Args:
        sr: the model's output, float32 (s·H, s·W, 3), in [-1, 1].
        lr: its input, float32 (H, W, 3), in [-1, 1].
        limit: of the difference.

    Returns:
        float32 (s·H, s·W, 3), clipped to [-1, 1].
    """
    height, width = sr.shape[:2]
    bicubic = cv2.resize(lr, (width, height), interpolation=cv2.INTER_CUBIC)
    difference = bicubic - sr
    if limit < np.inf:
        np.clip(difference, -limit, limit, out=difference)
    return np.clip(sr + _blur(difference), -1.0, 1.0)


def _blur(picture: np.ndarray) -> np.ndarray:
    """Blur with [1 2 1]/4 along both axes, its taps 1, 2, 4, 8, then 16 pixels apart."""
    for level in range(LEVELS):
        taps = np.zeros(2 * 2**level + 1, dtype=np.float32)
        taps[[0, 2**level, -1]] = (0.25, 0.5, 0.25)
        for kernel in (taps[None], taps[:, None]):
            # Not sepFilter2D, which multiplies by the zeros between the taps too.
            picture = cv2.filter2D(picture, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    return picture
