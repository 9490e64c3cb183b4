"""A pre-upsampler of plain convolutions, for processors without a GPU."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.models.bicubic import Bicubic

# Luma and two colour differences, which are zero wherever a picture is grey.
TO_OPPONENT = ((0.25, 0.5, 0.25), (-0.5, 1.0, -0.5), (1.0, 0.0, -1.0))
FROM_OPPONENT = ((1.0, -0.5, 0.5), (1.0, 0.5, 0.0), (1.0, -0.5, -0.5))
NEIGHBOURHOOD = 5
OVERSHOOT = 6 / 127.5
"""How far luma or a colour difference may lie beyond those around it: six levels of 255, which keep
red, green and blue within eight."""

LEAK = 0.1
FIRST_SPREAD = 0.02


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of a compact upsampler.

    Attributes:
        channels: width of its convolutions.
        layers: convolutions between the first and the last.
        scale: factor between the sides of input and output.
    """

    channels: int = 64
    layers: int = 28
    scale: int = 4

    @property
    def multiple(self) -> int:
        """Input sides must be multiples of this."""
        return 1


class CompactUpsampler(nn.Module):
    """Bicubic interpolation and what a stack of 3x3 convolutions adds to it.

    All convolutions work at the input's resolution; a pixel-shuffle comes last. Luma and each of
    two colour differences stay within the range that they have among the 5x5 input pixels around,
    and six levels, but no more than that range, beyond it: where the input is flat the output is
    the same value, where it is grey the output is grey, and edges do not ring, whatever the
    weights.

    Source: the layout is that of the compact networks of Wang et al., Real-ESRGAN (2021); opponent
    colours and limits are ours.
    """

    to_opponent: Tensor
    from_opponent: Tensor

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        channels, block = config.channels, config.scale**2
        convolutions = [nn.Conv2d(3, channels, 3, padding=1)]
        convolutions += [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(config.layers)]
        self.convolutions = nn.ModuleList(convolutions)
        self.last = nn.Conv2d(channels, 3 * block, 3, padding=1)
        self.bicubic = Bicubic(config.scale)
        back = torch.kron(torch.tensor(FROM_OPPONENT), torch.eye(block))
        for name, matrix in ("to_opponent", torch.tensor(TO_OPPONENT)), ("from_opponent", back):
            self.register_buffer(name, matrix[:, :, None, None], persistent=False)
        self._start_near_identity(convolutions[1:])

    def forward(self, lr: Tensor) -> Tensor:
        """(B, 3, h, w) in [-1, 1] -> (B, 3, scale·h, scale·w), about [-1, 1]."""
        x = lr
        for convolution in self.convolutions:
            x = F.leaky_relu(convolution(x), LEAK)
        values = F.conv2d(lr, self.to_opponent)
        lowest, highest = self._limits(values)
        block = self.config.scale**2
        found = self.bicubic.blocks(values) + self.last(x)
        found = torch.minimum(found, highest.repeat_interleave(block, dim=1))
        found = torch.maximum(found, lowest.repeat_interleave(block, dim=1))
        return F.pixel_shuffle(F.conv2d(found, self.from_opponent), self.config.scale)

    def _limits(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Least and largest value allowed at each pixel of each channel, (B, 3, h, w) both."""
        highest, negated = (
            F.max_pool2d(x, NEIGHBOURHOOD, stride=1, padding=NEIGHBOURHOOD // 2)
            for x in (values, -values)
        )
        beyond = (highest + negated).clamp(max=OVERSHOOT)
        return -negated - beyond, highest + beyond

    def _start_near_identity(self, inner: list[nn.Conv2d]) -> None:
        """Let features pass unchanged at first, which is what lets so deep a stack learn."""
        for convolution in inner:
            nn.init.dirac_(convolution.weight)
            convolution.weight.data += FIRST_SPREAD * torch.randn_like(convolution.weight)
            nn.init.zeros_(convolution.get_parameter("bias"))
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)
