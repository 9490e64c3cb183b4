"""Real-ESRGAN x4plus: one network from the small picture to the large one, with official key names.

Sources: Wang et al., ESRGAN (2018), the network; Wang et al., Real-ESRGAN (2021), its training. The
keys are those of `RealESRGAN_x4plus.pth`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.kernels.recurrence import END, START
from lpnsr.models.families import Stage

BLOCKS = 23
CHANNELS = 64
GROWTH = 32
RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all that came before it, and a scaled residual."""

    def __init__(self) -> None:
        super().__init__()
        for number in range(5):
            outputs = CHANNELS if number == 4 else GROWTH
            convolution = nn.Conv2d(CHANNELS + number * GROWTH, outputs, 3, padding=1)
            setattr(self, f"conv{number + 1}", convolution)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, h, w) -> (B, 64, h, w)."""
        features = x
        *growing, last = self.children()
        for convolution in growing:
            grown = F.leaky_relu(convolution(features), 0.2)
            features = torch.cat([features, grown], dim=1)
        return x + RESIDUAL_SCALE * last(features)


class ResidualDenseBlock(nn.Module):
    """Three dense blocks and a scaled residual (RRDB)."""

    def __init__(self) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 64, h, w) -> (B, 64, h, w)."""
        return x + RESIDUAL_SCALE * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """The network of Real-ESRGAN x4plus.

    Args:
        blocks: residual dense blocks.
    """

    def __init__(self, blocks: int = BLOCKS) -> None:
        super().__init__()

        def convolution(inputs: int, outputs: int) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, 3, padding=1)

        self.conv_first = convolution(3, CHANNELS)
        self.body = nn.Sequential(*(ResidualDenseBlock() for _ in range(blocks)))
        self.conv_body = convolution(CHANNELS, CHANNELS)
        self.conv_up1 = convolution(CHANNELS, CHANNELS)
        self.conv_up2 = convolution(CHANNELS, CHANNELS)
        self.conv_hr = convolution(CHANNELS, CHANNELS)
        self.conv_last = convolution(CHANNELS, 3)

    def forward(self, lr: Tensor) -> Tensor:
        """(B, 3, h, w) in [0, 1] -> (B, 3, 4h, 4w), about [0, 1]."""
        x = self.conv_first(lr)
        x = x + self.conv_body(self.body(x))
        for convolution in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(convolution(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


def real_esrgan(roles: Collection[str]) -> tuple[Stage, ...]:
    """The stages of Real-ESRGAN: where the chain starts it ends too.

    Args:
        roles: `pre_upsampler`.
    """
    return (
        Stage("pre_upsampler", START, ("pre_upsampler",), ("lr",), ("y",), _upsample),
        Stage("limit", END, (), ("state",), ("sr",), _limit),
    )


def _upsample(network: nn.Module, lr: Tensor) -> Tensor:
    return network((lr + 1) / 2) * 2 - 1


def _limit(state: Tensor) -> Tensor:
    return state.clamp(-1, 1)
