"""Bicubic interpolation as one convolution, which every engine computes alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARPNESS = -0.75
REACH = 2


class Bicubic(nn.Module):
    """Bicubic upsampling by a whole factor, in place of a trained pre-upsampler.

    Equal to `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`. An output pixel
    at one of scale x scale positions inside an input pixel is always the same weighted sum of the
    5x5 input pixels around it: a convolution and a pixel-shuffle, with the border repeated.
    """

    taps: Tensor

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale
        axis = _taps(scale)
        taps = axis[:, None, :, None] * axis[None, :, None, :]
        taps = taps.reshape(scale**2, 1, *taps.shape[2:]).repeat(3, 1, 1, 1)
        self.register_buffer("taps", taps.float(), persistent=False)

    def forward(self, lr: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3, scale·h, scale·w), with values a little beyond those of `lr`."""
        return F.pixel_shuffle(self.blocks(lr), self.scale)

    def blocks(self, lr: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, 3·scale², h, w): the same picture before its pixel-shuffle."""
        padded = F.pad(lr, (REACH,) * 4, mode="replicate")
        return F.conv2d(padded, self.taps, groups=3)


def _taps(scale: int) -> Tensor:
    """Weights of the neighbours -2 … 2 along one axis, for each output position: (scale, 5)."""
    position = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    distance = (position[:, None] - torch.arange(-REACH, REACH + 1)).abs()
    a = SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
