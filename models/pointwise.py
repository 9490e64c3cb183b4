"""Denoiser and noise predictor of a chain that costs next to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAK = 0.1


@dataclass(frozen=True)
class PointwiseConfig:
    """Sizes of a pointwise network.

    Attributes:
        in_channels: channels of the state and the conditions together.
        out_channels: channels of the output.
        hidden: width between its two convolutions.
        timesteps: how many timesteps it can be told, from 0.
        limit: if given, the output is the state and at most this much more or less.
    """

    in_channels: int
    out_channels: int
    hidden: int = 16
    timesteps: int = 4
    limit: float | None = None

    @property
    def multiple(self) -> int:
        """Input sides must be multiples of this."""
        return 1


class PointwiseNet(nn.Module):
    """Two 1x1 convolutions, modulated by the timestep in between.

    On a latent that is a rearranged picture, each position sees its own block of pixels.
    """

    def __init__(self, config: PointwiseConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Conv2d(config.in_channels, config.hidden, 1)
        self.last = nn.Conv2d(config.hidden, config.out_channels, 1)
        self.scales = nn.Parameter(torch.ones(config.timesteps, config.hidden))
        self.shifts = nn.Parameter(torch.zeros(config.timesteps, config.hidden))

    def modulation(self, timestep: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias of the hidden channels, (B, hidden, 1, 1) each.

        Args:
            timestep: (B,) int64, 0 = the last step of the reverse chain.
        """
        weight, bias = (table[timestep][..., None, None] for table in (self.scales, self.shifts))
        return [(weight, bias)]

    def forward(self, x: Tensor, modulation: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Run the network.

        Args:
            x: (B, in_channels, h, w), state and conditions concatenated.
            modulation: from `modulation(timestep)`.

        Returns:
            (B, out_channels, h, w).
        """
        ((weight, bias),) = modulation
        change = self.last(F.leaky_relu(self.first(x) * weight + bias, LEAK))
        if self.config.limit is None:
            return change
        state = x[:, : self.config.out_channels]
        return state + change.clamp(-self.config.limit, self.config.limit)
