"""Codecs: from picture to latent and back. Latents have the size of the small input."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


class PixelCodec(nn.Module):
    """Pixel-unshuffle in place of an autoencoder: a latent is the picture, rearranged."""

    def __init__(self, scale: int = 4) -> None:
        super().__init__()
        self.scale = scale

    def encode(self, picture: Tensor) -> Tensor:
        """(B, 3, scale·h, scale·w) -> (B, 3·scale², h, w)."""
        return F.pixel_unshuffle(picture, self.scale)

    def decode(self, latent: Tensor) -> Tensor:
        """(B, 3·scale², h, w) -> (B, 3, scale·h, scale·w)."""
        return F.pixel_shuffle(latent, self.scale)


@dataclass(frozen=True)
class VQConfig:
    """Sizes of the VQ-f4 autoencoder; the defaults are those of the official checkpoint.

    Attributes:
        channels: width at full resolution.
        multipliers: width of each level as a multiple of `channels`, from full resolution down.
        blocks: residual blocks a level (the decoder has one more).
        codes: entries of the codebook.
        latent_channels: channels of a latent and of a code.
    """

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    codes: int = 8192
    latent_channels: int = 3


class VQBlock(nn.Module):
    """Residual block: twice group norm, swish, convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = _norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class VQAttention(nn.Module):
    """Single-head self-attention over all positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        h = self.norm(x)
        query, key, value = (project(h).flatten(2) for project in (self.q, self.k, self.v))
        scores = (query * query.shape[1] ** -0.5).transpose(1, 2) @ key
        mixed = value @ scores.softmax(dim=-1).transpose(1, 2)
        return x + self.proj_out(mixed.reshape(x.shape))


class VQLevel(nn.Module):
    """One resolution of encoder or decoder: residual blocks, then a change of resolution."""

    downsample: nn.ModuleDict
    upsample: nn.ModuleDict

    def __init__(self, in_channels: int, out_channels: int, blocks: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            *(VQBlock(out_channels if i else in_channels, out_channels) for i in range(blocks))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, out_channels, h', w')."""
        x = self.block(x)
        if hasattr(self, "downsample"):
            # The strided convolutions were trained with a border at the right and bottom only.
            return self.downsample["conv"](F.pad(x, (0, 1, 0, 1)))
        if hasattr(self, "upsample"):
            return self.upsample["conv"](F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x


class VQEncoder(nn.Module):
    """Picture -> unquantised latent, before the 1x1 convolution that ends encoding."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(3, config.channels, 3, padding=1)
        self.down = nn.ModuleList(
            VQLevel(inner, outer, config.blocks)
            for inner, outer in zip([config.channels, *widths], widths, strict=False)
        )
        for level, width in zip(self.down[:-1], widths, strict=False):
            level.downsample = nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, stride=2)})
        self.mid = _middle(widths[-1])
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.latent_channels, 3, padding=1)

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, 4h, 4w) -> (B, latent_channels, h, w)."""
        x = self.conv_in(picture)
        for level in self.down:
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(_run_middle(self.mid, x))))


class VQDecoder(nn.Module):
    """Quantised latent, after the 1x1 convolution that starts decoding -> picture."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid = _middle(widths[-1])
        self.up = nn.ModuleList(
            VQLevel(inner, outer, config.blocks + 1)
            for inner, outer in zip([*widths[1:], widths[-1]], widths, strict=True)
        )
        for level, width in zip(self.up[1:], widths[1:], strict=True):
            level.upsample = nn.ModuleDict({"conv": nn.Conv2d(width, width, 3, padding=1)})
        self.norm_out = _norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, latent_channels, h, w) -> (B, 3, 4h, 4w)."""
        x = _run_middle(self.mid, self.conv_in(latent))
        for level in reversed(self.up):
            x = level(x)
        return self.conv_out(F.silu(self.norm_out(x)))


class VQCodec(nn.Module):
    """VQ-f4 autoencoder (Rombach et al., Latent Diffusion, 2022), as ResShift uses it."""

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        channels = config.latent_channels
        self.encoder = VQEncoder(config)
        self.decoder = VQDecoder(config)
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(config.codes, channels)})
        self.quant_conv = nn.Conv2d(channels, channels, 1)
        self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, picture: Tensor) -> Tensor:
        """(B, 3, 4h, 4w) in [-1, 1] -> (B, C, h, w), not quantised."""
        return self.quant_conv(self.encoder(picture))

    def code_indices(self, latent: Tensor) -> Tensor:
        """Index of the nearest code at each position: (B, C, h, w) -> (B, h, w) int64."""
        codes = self.quantize.get_parameter("embedding.weight")
        # |z - e|² without |z|², which is the same for all codes.
        distances = codes.square().sum(1) - 2 * (latent.permute(0, 2, 3, 1) @ codes.T)
        return distances.argmin(dim=-1)

    def nearest_codes(self, latent: Tensor) -> Tensor:
        """The nearest code at each position: (B, C, h, w) -> (B, C, h, w)."""
        return self.quantize["embedding"](self.code_indices(latent)).permute(0, 3, 1, 2)

    def decode_quantized(self, quantized: Tensor) -> Tensor:
        """Decode codes: (B, C, h, w) -> (B, 3, 4h, 4w), about [-1, 1], not clamped."""
        return self.decoder(self.post_quant_conv(quantized))

    def decode(self, latent: Tensor) -> Tensor:
        """Quantise, then decode: (B, C, h, w) -> (B, 3, 4h, 4w), not clamped.

        Where a gradient is wanted, quantisation passes it on as if it were the identity.
        """
        quantized = self.nearest_codes(latent)
        if latent.requires_grad:
            quantized = latent + (quantized - latent).detach()
        return self.decode_quantized(quantized)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


def _middle(channels: int) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "block_1": VQBlock(channels, channels),
            "attn_1": VQAttention(channels),
            "block_2": VQBlock(channels, channels),
        }
    )


def _run_middle(middle: nn.ModuleDict, x: Tensor) -> Tensor:
    return middle["block_2"](middle["attn_1"](middle["block_1"](x)))
