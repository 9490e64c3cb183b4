"""The Swin-UNet of ResShift: denoiser and noise predictor are this one network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.models.upsampler import NearestUpsampler, Upsample
from lpnsr.models.windows import WindowAttention, resshift_mask

Affine = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SwinUNetConfig:
    """Sizes of a Swin-UNet; the defaults are those of the official checkpoints.

    Attributes:
        in_channels: channels of all inputs together (state and conditions, concatenated).
        out_channels: channels of the output.
        channels: width of the first level.
        multipliers: width of each level as a multiple of `channels`.
        blocks: residual blocks a level (the way up has one more).
        groups: groups of every group norm; 0 for a network without norms, where no position depends
            on the statistics of all others, and so on the size of the input.
        swin_channels: embedding width of the Swin layers.
        head_channels: channels of one attention head.
        mlp_ratio: hidden width of the Swin MLPs as a multiple of `swin_channels`.
        window: side of an attention window.
        training_size: input side at training; levels whose side was then no larger than a window
            never shift their windows, at any input size.
        features: width of an upsampler that the network ends in, whose picture is rearranged to
            the latent; 0 where it ends in a single convolution.
        skip: whether the first `out_channels` of the input, the state, are added to the output, so
            that the network starts from the state instead of passing all of it through its width.
    """

    in_channels: int
    out_channels: int
    channels: int = 160
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    blocks: int = 2
    groups: int = 32
    swin_channels: int = 192
    head_channels: int = 32
    mlp_ratio: int = 4
    window: int = 8
    training_size: int = 64
    features: int = 0
    skip: bool = False

    @property
    def multiple(self) -> int:
        """Input sides must be multiples of this."""
        return self.window << (len(self.multipliers) - 1)


class ResBlock(nn.Module):
    """Residual block whose second group norm is scaled and shifted by the timestep."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding_channels: int, groups: int
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            _norm(groups, in_channels),
            nn.SiLU(),
            nn.Conv2d(in_channels, out_channels, 3, padding=1),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedding_channels, 2 * out_channels))
        self.out_layers = nn.Sequential(
            _norm(groups, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        self.skip_connection = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def affine(self, embedding: Tensor) -> Affine:
        """Weight and bias of the second group norm at one timestep, each (B, C, 1, 1).

        The norm's own weight and bias are merged with the scale and shift that depend on the
        timestep, so that a graph for a fixed timestep holds them as two constants.
        """
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        norm = self.out_layers[0]
        if not isinstance(norm, nn.GroupNorm):
            return 1 + scale, shift
        weight = norm.weight[:, None, None] * (1 + scale)
        return weight, norm.bias[:, None, None] * (1 + scale) + shift

    def forward(self, x: Tensor, affine: Affine) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W); `affine` comes from the method of that name."""
        norm, activation, _, convolution = self.out_layers
        weight, bias = affine
        h = self.in_layers(x)
        if isinstance(norm, nn.GroupNorm):
            h = F.group_norm(h, norm.num_groups, eps=norm.eps)
        return self.skip_connection(x) + convolution(activation(h * weight + bias))


class SwinBlock(nn.Module):
    """Window attention and MLP, each with a group norm and a residual connection."""

    def __init__(self, config: SwinUNetConfig, shift: int) -> None:
        super().__init__()
        channels = config.swin_channels
        self.norm1 = _norm(config.groups, channels)
        self.attn = WindowAttention(
            channels, channels // config.head_channels, config.window, shift, resshift_mask
        )
        self.norm2 = _norm(config.groups, channels)
        self.mlp = nn.ModuleDict(
            {
                "fc1": nn.Conv2d(channels, config.mlp_ratio * channels, 1),
                "fc2": nn.Conv2d(config.mlp_ratio * channels, channels, 1),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height, width = x.shape[2:]
        tokens = self.norm1(x).flatten(2).transpose(1, 2)
        tokens = self.attn(tokens, height, width)
        x = x + tokens.transpose(1, 2).unflatten(2, (height, width))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class SwinLayer(nn.Module):
    """An unshifted and a shifted Swin block between two 1x1 convolutions."""

    def __init__(self, channels: int, size: int, config: SwinUNetConfig) -> None:
        super().__init__()
        embed = config.swin_channels
        shift = config.window // 2 if size > config.window else 0
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(channels, embed, 1)})
        self.blocks = nn.Sequential(SwinBlock(config, 0), SwinBlock(config, shift))
        self.patch_unembed = nn.ModuleDict({"proj": nn.Conv2d(embed, channels, 1)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.patch_unembed["proj"](self.blocks(self.patch_embed["proj"](x)))


class SwinDownsample(nn.Module):
    """Halves both sides with a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.op(x)


class SwinUNet(NearestUpsampler):
    """UNet with Swin layers, conditioned on a timestep.

    Source: Yue et al., ResShift (2023). The noise predictor of LPNSR has the same structure with
    three more input channels and twice the output channels (mean and log-variance). The denoiser of
    UPSR (Zhang et al., 2025) works on pixels and has an upsampler for its output head.
    """

    def __init__(self, config: SwinUNetConfig) -> None:
        super().__init__()
        self.config = config
        embedding = 4 * config.channels
        self.time_embed = nn.Sequential(
            nn.Linear(config.channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        sizes = [config.training_size >> level for level in range(len(widths))]

        def residual(inner: int, outer: int) -> ResBlock:
            return ResBlock(inner, outer, embedding, config.groups)

        channels = widths[0]
        skips = [channels]
        first = nn.Conv2d(config.in_channels, channels, 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([first])])
        for level, width in enumerate(widths):
            for index in range(config.blocks):
                block = nn.ModuleList([residual(channels, width)])
                if index == 0:
                    block.append(SwinLayer(width, sizes[level], config))
                self.input_blocks.append(block)
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([SwinDownsample(channels)]))
                skips.append(channels)

        self.middle_block = nn.ModuleList(
            [
                residual(channels, channels),
                SwinLayer(channels, sizes[-1], config),
                residual(channels, channels),
            ]
        )

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for index in range(config.blocks + 1):
                block = nn.ModuleList([residual(channels + skips.pop(), width)])
                if index == 0:
                    block.append(SwinLayer(width, sizes[level], config))
                if level and index == config.blocks:
                    block.append(Upsample(width))
                self.output_blocks.append(block)
                channels = width

        if config.features:
            self.add_upsampler(channels, config.features)
        else:
            self.out = nn.Sequential(
                _norm(config.groups, channels),
                nn.SiLU(),
                nn.Conv2d(channels, config.out_channels, 3, padding=1),
            )

    def modulation(self, timestep: Tensor) -> list[Affine]:
        """What the timestep contributes: one group-norm weight and bias per residual block.

        Args:
            timestep: (B,) int64, 0 = the last step of the reverse chain.
        """
        embedding = self.time_embed(timestep_embedding(timestep, self.config.channels))
        return [block.affine(embedding) for block in self.modules() if isinstance(block, ResBlock)]

    def forward(self, x: Tensor, modulation: list[Affine]) -> Tensor:
        """Run the network.

        Args:
            x: (B, in_channels, H, W), state and conditions concatenated, sides multiples of
                `config.multiple`.
            modulation: from `modulation(timestep)`.

        Returns:
            (B, out_channels, H, W).
        """
        affines = iter(modulation)
        state = x[:, : self.config.out_channels]
        skips = []
        for block in self.input_blocks:
            x = _run(block, x, affines)
            skips.append(x)
        x = _run(self.middle_block, x, affines)
        for block in self.output_blocks:
            x = _run(block, torch.cat([x, skips.pop()], dim=1), affines)
        x = F.pixel_unshuffle(self.upsample(x), 4) if self.config.features else self.out(x)
        return state + x if self.config.skip else x


def _norm(groups: int, channels: int) -> nn.Module:
    return nn.GroupNorm(groups, channels) if groups else nn.Identity()


def _run(block: nn.Module, x: Tensor, affines: Iterator[Affine]) -> Tensor:
    for layer in block.children():
        x = layer(x, next(affines)) if isinstance(layer, ResBlock) else layer(x)
    return x


def timestep_embedding(timestep: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding, (B,) -> (B, channels) float32, periods from 2π to 20000π."""
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timestep.device) / half
    angles = timestep[:, None].float() * torch.exp(-math.log(10000.0) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
