"""SwinIR, the pre-upsampler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.models.upsampler import NearestUpsampler
from lpnsr.models.windows import WindowAttention, swin_mask

RGB_MEAN = (0.4488, 0.4371, 0.4040)


@dataclass(frozen=True)
class SwinIRConfig:
    """Sizes of a SwinIR x4; the defaults are those of SwinIR-L.

    Attributes:
        channels: embedding width.
        depths: Swin layers of each residual Swin block (RSTB).
        heads: attention heads.
        mlp_ratio: hidden width of the MLPs as a multiple of `channels`.
        window: side of an attention window.
        features: width of the upsampling convolutions.
    """

    channels: int = 240
    depths: tuple[int, ...] = (6,) * 9
    heads: int = 8
    mlp_ratio: int = 2
    window: int = 8
    features: int = 64

    @property
    def multiple(self) -> int:
        """Input sides must be multiples of this."""
        return self.window


class SwinIRLayer(nn.Module):
    """Window attention and MLP on tokens, each with a layer norm and a residual connection."""

    def __init__(self, config: SwinIRConfig, shift: int) -> None:
        super().__init__()
        channels, hidden = config.channels, config.mlp_ratio * config.channels
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, config.heads, config.window, shift, swin_mask)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(channels, hidden), "fc2": nn.Linear(hidden, channels)}
        )

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, height·width, C) -> (B, height·width, C)."""
        x = x + self.attn(self.norm1(x), height, width)
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class RSTB(nn.Module):
    """Residual Swin Transformer block: Swin layers, a bottleneck of convolutions, a skip."""

    def __init__(self, depth: int, config: SwinIRConfig) -> None:
        super().__init__()
        layers = [SwinIRLayer(config, i % 2 * (config.window // 2)) for i in range(depth)]
        self.residual_group = nn.ModuleDict({"blocks": nn.ModuleList(layers)})
        self.conv = _bottleneck(config.channels)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, height·width, C) -> (B, height·width, C)."""
        h = x
        for layer in self.residual_group["blocks"].children():
            h = layer(h, height, width)
        h = h.transpose(1, 2).unflatten(2, (height, width))
        return x + self.conv(h).flatten(2).transpose(1, 2)


class SwinIR(NearestUpsampler):
    """SwinIR x4 with the `nearest+conv` upsampler and the `3conv` residual connection.

    Source: Liang et al., SwinIR (2021).
    """

    mean: Tensor

    def __init__(self, config: SwinIRConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(channels)})
        self.layers = nn.ModuleList(RSTB(depth, config) for depth in config.depths)
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = _bottleneck(channels)
        self.add_upsampler(channels, config.features)
        self.register_buffer("mean", torch.tensor(RGB_MEAN)[:, None, None], persistent=False)

    def forward(self, lr: Tensor) -> Tensor:
        """Upsample: (B, 3, h, w) in [-1, 1] -> (B, 3, 4h, 4w), about [-1, 1].

        The network itself works in [0, 1]. Sides must be multiples of the window.
        """
        x = (lr + 1) / 2 - self.mean
        x = self.conv_first(x)
        x = x + self.conv_after_body(self._deep_features(x))
        return (self.upsample(x) + self.mean) * 2 - 1

    def _deep_features(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        tokens = self.patch_embed["norm"](x.flatten(2).transpose(1, 2))
        for layer in self.layers:
            tokens = layer(tokens, height, width)
        return self.norm(tokens).transpose(1, 2).unflatten(2, (height, width))


def _bottleneck(channels: int) -> nn.Sequential:
    inner = channels // 4
    return nn.Sequential(
        nn.Conv2d(channels, inner, 3, padding=1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(inner, inner, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(inner, channels, 3, padding=1),
    )
