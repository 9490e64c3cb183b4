"""The UNet of Stable Diffusion 2, which is that of SD-Turbo, with diffusers' key names.

Sources: Rombach et al., Latent Diffusion (2022); Sauer et al., Adversarial Diffusion Distillation
(2023). The keys are those of `UNet2DConditionModel` as stabilityai/sd-turbo publishes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.models.diffusion_blocks import Downsample, ResnetBlock, attend
from lpnsr.models.swin_unet import timestep_embedding
from lpnsr.models.upsampler import Upsample

LAYER_EPS, TRANSFORMER_EPS = 1e-5, 1e-6


@dataclass(frozen=True)
class DiffusionUNetConfig:
    """Sizes of the UNet; the defaults are those of SD-Turbo.

    Attributes:
        widths: of the levels, from full resolution down; all but the last level have attention.
        blocks: residual blocks a level (on the way up one more).
        head_channels: channels of an attention head.
        context_channels: width of the context's tokens.
        groups: of the group norms.
        latent_channels: channels of a latent.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    head_channels: int = 64
    context_channels: int = 1024
    groups: int = 32
    latent_channels: int = 4


class Attention(nn.Module):
    """Multi-head attention of a picture's tokens to themselves."""

    def __init__(self, channels: int, context: int, head_channels: int) -> None:
        super().__init__()
        self.heads = channels // head_channels
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context, channels, bias=False)
        self.to_v = nn.Linear(context, channels, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        return self.attend(tokens, self.to_k(tokens), self.to_v(tokens))

    def attend(self, tokens: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """(B, N, C), key and value (B or 1, M, C) -> (B, N, C)."""
        return self.to_out[0](attend(self.to_q(tokens), key, value, self.heads))


class CrossAttention(Attention):
    """Attention to a context that is the same for every picture.

    What becomes of the context is kept: the graph of a network that has been told its context has
    keys and values as constants, and neither the context nor what makes them of it.
    """

    key: Tensor | None
    value: Tensor | None

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        for name in ("key", "value"):
            self.register_buffer(name, None, persistent=False)

    def attend_to(self, context: Tensor) -> None:
        """Keep key and value of a context (1, M, context channels)."""
        self.key, self.value = self.to_k(context), self.to_v(context)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C).

        Raises:
            LookupError: there is no context yet.
        """
        if self.key is None or self.value is None:
            raise LookupError("the network was told no context: call its chain's `prepare`")
        return self.attend(tokens, self.key, self.value)


class GEGLU(nn.Module):
    """Linear layer, one half of whose output gates the other (Shazeer, 2020)."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels, 2 * out_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, out_channels)."""
        values, gates = self.proj(tokens).chunk(2, dim=-1)
        return values * F.gelu(gates)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, two linear layers, each with a norm before it."""

    def __init__(self, channels: int, config: DiffusionUNetConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, LAYER_EPS)
        self.attn1 = Attention(channels, channels, config.head_channels)
        self.norm2 = nn.LayerNorm(channels, LAYER_EPS)
        self.attn2 = CrossAttention(channels, config.context_channels, config.head_channels)
        self.norm3 = nn.LayerNorm(channels, LAYER_EPS)
        layers = GEGLU(channels, 4 * channels), nn.Identity(), nn.Linear(4 * channels, channels)
        self.ff = nn.ModuleDict({"net": nn.Sequential(*layers)})

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, C)."""
        tokens = tokens + self.attn1(self.norm1(tokens))
        tokens = tokens + self.attn2(self.norm2(tokens))
        return tokens + self.ff["net"](self.norm3(tokens))


class Transformer(nn.Module):
    """A transformer block on the positions of a picture."""

    def __init__(self, channels: int, config: DiffusionUNetConfig) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(config.groups, channels, TRANSFORMER_EPS)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(channels, config)])
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        tokens = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        tokens = self.proj_out(self.transformer_blocks[0](tokens))
        return x + tokens.transpose(1, 2).unflatten(2, x.shape[2:])


class UNetLevel(nn.Module):
    """Residual blocks of one resolution, each followed by a transformer where the level has any."""

    downsamplers: nn.ModuleList
    upsamplers: nn.ModuleList

    def __init__(
        self,
        in_channels: tuple[int, ...],
        out_channels: int,
        attention: bool,
        config: DiffusionUNetConfig,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_block(width, out_channels, config) for width in in_channels)
        if attention:
            self.attentions = nn.ModuleList(Transformer(out_channels, config) for _ in in_channels)

    def layer(self, number: int, x: Tensor, shifts: Iterator[Tensor]) -> Tensor:
        """The block of this number and the transformer after it."""
        x = self.resnets[number](x, next(shifts))
        return self.attentions[number](x) if hasattr(self, "attentions") else x


class UNetMiddle(nn.Module):
    """Two residual blocks with a transformer between them."""

    def __init__(self, channels: int, config: DiffusionUNetConfig) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Transformer(channels, config)])
        self.resnets = nn.ModuleList(_block(channels, channels, config) for _ in range(2))

    def forward(self, x: Tensor, shifts: Iterator[Tensor]) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.attentions[0](self.resnets[0](x, next(shifts)))
        return self.resnets[1](x, next(shifts))


class DiffusionUNet(nn.Module):
    """Predicts the noise in a latent, given its timestep and a context that is always the same."""

    def __init__(self, config: DiffusionUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, first, last = config.widths, config.widths[0], config.widths[-1]
        embedding = 4 * first
        self.conv_in = nn.Conv2d(config.latent_channels, first, 3, padding=1)
        layers = {"linear_1": nn.Linear(first, embedding)}
        layers["linear_2"] = nn.Linear(embedding, embedding)
        self.time_embedding = nn.ModuleDict(layers)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, below = [first], first
        for width in widths:
            deepest = len(self.down_blocks) == len(widths) - 1
            takes = (below, *[width] * (config.blocks - 1))
            level = UNetLevel(takes, width, not deepest, config)
            if not deepest:
                level.downsamplers = nn.ModuleList([Downsample(width, (1, 1, 1, 1))])
            self.down_blocks.append(level)
            skips += [width] * (config.blocks if deepest else config.blocks + 1)
            below = width
        self.mid_block = UNetMiddle(last, config)
        for width in reversed(widths):
            takes = tuple(w + skips.pop() for w in (below, *[width] * config.blocks))
            level = UNetLevel(takes, width, bool(self.up_blocks), config)
            if len(self.up_blocks) < len(widths) - 1:
                level.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(level)
            below = width
        self.conv_norm_out = nn.GroupNorm(config.groups, first, LAYER_EPS)
        self.conv_out = nn.Conv2d(first, config.latent_channels, 3, padding=1)

    def attend_to(self, context: Tensor) -> None:
        """Tell the network its context, once.

        Args:
            context: (1, M, context_channels), the embedding of a prompt.
        """
        for module in self.modules():
            if isinstance(module, CrossAttention):
                module.attend_to(context)

    def modulation(self, timestep: Tensor) -> list[Tensor]:
        """What a timestep (B,) contributes: a shift (B, C, 1, 1) for each residual block."""
        embedding = timestep_embedding(timestep, self.config.widths[0])
        embedding = F.silu(self.time_embedding["linear_1"](embedding))
        embedding = self.time_embedding["linear_2"](embedding)
        levels = (*self.down_blocks, self.mid_block, *self.up_blocks)
        return [block.shift(embedding) for level in levels for block in level.resnets]

    def forward(self, latent: Tensor, modulation: list[Tensor]) -> Tensor:
        """The noise in a latent.

        Args:
            latent: (B, latent_channels, H, W), sides multiples of 8 (of 2 to the power of the
                number of levels less one).
            modulation: from the method of that name.

        Returns:
            like `latent`.
        """
        shifts = iter(modulation)
        x = self.conv_in(latent)
        skips = [x]
        for level in _levels(self.down_blocks):
            for number in range(len(level.resnets)):
                x = level.layer(number, x, shifts)
                skips.append(x)
            if hasattr(level, "downsamplers"):
                x = level.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block(x, shifts)
        for level in _levels(self.up_blocks):
            for number in range(len(level.resnets)):
                x = level.layer(number, torch.cat([x, skips.pop()], dim=1), shifts)
            if hasattr(level, "upsamplers"):
                x = level.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def _levels(blocks: nn.ModuleList) -> Iterable[UNetLevel]:
    # What a container holds has no type.
    return cast(Iterable[UNetLevel], blocks)


def _block(in_channels: int, out_channels: int, config: DiffusionUNetConfig) -> ResnetBlock:
    embedding = 4 * config.widths[0]
    return ResnetBlock(in_channels, out_channels, config.groups, LAYER_EPS, embedding)
