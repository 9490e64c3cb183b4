"""Upsampling by nearest neighbours and a convolution, by 2 and, at the end of a network, by 4."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Upsample(nn.Module):
    """Doubles both sides: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class NearestUpsampler(nn.Module):
    """Base of networks that turn features into a picture four times the size (`nearest+conv`).

    It is a base and not a part, because in checkpoints these layers stand among the network's own.

    Source: Liang et al., SwinIR (2021), the upsampler for real-world pictures.
    """

    def add_upsampler(self, channels: int, features: int) -> None:
        """Add the layers.

        Args:
            channels: of the features that come in.
            features: width of the convolutions.
        """
        self.conv_before_upsample = nn.Sequential(
            nn.Conv2d(channels, features, 3, padding=1), nn.LeakyReLU(0.01)
        )
        self.conv_up1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def upsample(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 3, 4h, 4w)."""
        x = self.conv_before_upsample(x)
        for convolution in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(convolution(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))
