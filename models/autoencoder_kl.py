"""The autoencoder of Stable Diffusion, with diffusers' key names, as an encoder and a decoder.

Sources: Rombach et al., Latent Diffusion (2022); DM-SR (ICLR 2026), sections 3.2 and A.1: the
encoder is told the timestep. The keys are those of `AutoencoderKL`, which publishes both in one
file; each takes its own from it. A trained encoder is a file of the encoder's keys, `encoder.*` and
`quant_conv.*`, and of `time_projections.N.{weight,bias}`, N = 0 … 3 from full resolution down.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.models.diffusion_blocks import Downsample, ResnetBlock, attend
from lpnsr.models.upsampler import Upsample

EPS = 1e-6
LAST_TIMESTEP = 500.0
ENCODER = ("encoder.", "quant_conv.")
DECODER = ("decoder.", "post_quant_conv.")
# What files of before 2023 call the layers of the attention.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class AutoencoderKLConfig:
    """Sizes of the autoencoder; the defaults are those of Stable Diffusion 1, 2 and SD-Turbo.

    Attributes:
        widths: of the levels, from full resolution down.
        blocks: residual blocks a level (the decoder has one more).
        groups: of the group norms.
        latent_channels: channels of a latent.
        scaling: factor that gives latents about the variance 1.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    blocks: int = 2
    groups: int = 32
    latent_channels: int = 4
    scaling: float = 0.18215


class KLAttention(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        mixed = attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens), heads=1)
        return x + self.to_out[0](mixed).transpose(1, 2).unflatten(2, x.shape[2:])


class KLMiddle(nn.Module):
    """Two residual blocks with attention between them."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([KLAttention(channels, groups)])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups, EPS) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class KLLevel(nn.Module):
    """Residual blocks of one resolution; all levels but the last change it after them."""

    downsamplers: nn.ModuleList
    upsamplers: nn.ModuleList

    def __init__(self, in_channels: int, out_channels: int, blocks: int, groups: int) -> None:
        super().__init__()
        widths = [in_channels, *[out_channels] * (blocks - 1)]
        self.resnets = nn.Sequential(
            *(ResnetBlock(width, out_channels, groups, EPS) for width in widths)
        )


class Encoder(nn.Module):
    """Picture -> mean and log-variance of its latent, before the 1x1 convolution."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, groups = config.widths, config.groups
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            KLLevel(inner, outer, config.blocks, groups)
            for inner, outer in zip([widths[0], *widths], widths, strict=False)
        )
        for level, width in zip(self.down_blocks[:-1], widths, strict=False):
            # Trained with a border at the right and bottom only.
            level.downsamplers = nn.ModuleList([Downsample(width, (0, 1, 0, 1))])
        self.mid_block = KLMiddle(widths[-1], groups)
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, picture: Tensor, shifts: list[Tensor]) -> Tensor:
        """(B, 3, 8h, 8w) -> (B, 2·latent_channels, h, w); adds a shift to what each level gives."""
        x = self.conv_in(picture)
        for level, shift in zip(_levels(self.down_blocks), shifts, strict=True):
            x = level.resnets(x) + shift
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latent, after the 1x1 convolution -> picture."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, groups = config.widths[::-1], config.groups
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = KLMiddle(widths[0], groups)
        self.up_blocks = nn.ModuleList(
            KLLevel(inner, outer, config.blocks + 1, groups)
            for inner, outer in zip([widths[0], *widths], widths, strict=False)
        )
        for level, width in zip(self.up_blocks[:-1], widths, strict=False):
            level.upsamplers = nn.ModuleList([Upsample(width)])
        self.conv_norm_out = nn.GroupNorm(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 3, 8h, 8w)."""
        x = self.mid_block(self.conv_in(latent))
        for level in _levels(self.up_blocks):
            x = level.resnets(x)
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class KLEncoder(nn.Module):
    """Picture and timestep -> latent.

    The timestep, divided by 500, goes through a linear layer for each level, which starts at zero;
    what it gives is added to the level's output. An encoder that was not trained to be told a
    timestep (the published one) is thus one that does not heed it.
    """

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        channels = 2 * config.latent_channels
        self.quant_conv = nn.Conv2d(channels, channels, 1)
        self.time_projections = nn.ModuleList(nn.Linear(1, width) for width in config.widths)
        for parameter in self.time_projections.parameters():
            nn.init.zeros_(parameter)

    @staticmethod
    def own(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its part of the weights of a file, under its names."""
        return _without(weights, DECODER)

    def forward(self, picture: Tensor, timestep: Tensor) -> Tensor:
        """Mean of the latent, scaled.

        Args:
            picture: (B, 3, 8h, 8w) in [-1, 1].
            timestep: (B,).

        Returns:
            (B, latent_channels, h, w).
        """
        told = (timestep / LAST_TIMESTEP)[:, None]
        shifts = [project(told)[:, :, None, None] for project in self.time_projections]
        mean, _ = self.quant_conv(self.encoder(picture, shifts)).chunk(2, dim=1)
        return self.config.scaling * mean


class KLDecoder(nn.Module):
    """Latent -> picture."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config = config
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    @staticmethod
    def own(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Its part of the weights of a file, under its names."""
        return _without(weights, (*ENCODER, "time_projections."))

    def decode(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, h, w), scaled -> (B, 3, 8h, 8w), about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(latent / self.config.scaling))


def _levels(blocks: nn.ModuleList) -> Iterable[KLLevel]:
    # What a container holds has no type.
    return cast(Iterable[KLLevel], blocks)


def _without(weights: Mapping[str, Tensor], others: tuple[str, ...]) -> dict[str, Tensor]:
    own = {name: value for name, value in weights.items() if not name.startswith(others)}
    return {_current(name): value for name, value in own.items()}


def _current(name: str) -> str:
    """A parameter's name in newer files."""
    pattern = rf"(mid_block\.attentions\.0)\.({'|'.join(OLD_NAMES)})\."
    return re.sub(pattern, lambda match: f"{match[1]}.{OLD_NAMES[match[2]]}.", name)
