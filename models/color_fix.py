"""The runtime's colour fix in PyTorch, for training through it and for measuring with it."""

from __future__ import annotations

from math import inf

import torch.nn.functional as F
from torch import Tensor

LEVELS = 5


def correct(sr: Tensor, lr: Tensor, limit: float = inf) -> Tensor:
    """Replace the low frequencies of `sr` by those of `lr` upscaled with bicubic interpolation.

    Args:
        sr: the model's output, (B, 3, s·h, s·w).
        lr: its input, (B, 3, h, w).
        limit: of the difference that is blurred, see `Preset.color_limit`.

    Returns:
        (B, 3, s·h, s·w), not clamped.
    """
    bicubic = F.interpolate(lr, sr.shape[2:], mode="bicubic")
    return sr + _blur((bicubic - sr).clamp(-limit, limit))


def _blur(picture: Tensor) -> Tensor:
    """Blur with [1 2 1]/4 along both axes, its taps 1, 2, 4, 8, then 16 pixels apart."""
    for level in range(LEVELS):
        reach = 2**level
        height, width = picture.shape[2:]
        wide = F.pad(picture, (reach,) * 4, mode="replicate")
        rows = wide[:, :, :height] + 2 * wide[:, :, reach:-reach] + wide[:, :, 2 * reach :]
        picture = rows[..., :width] + 2 * rows[..., reach:-reach] + rows[..., 2 * reach :]
        picture = picture / 16
    return picture
