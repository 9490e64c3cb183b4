"""The auxiliary network of UPSR: a transformer with adaptive token dictionaries (ATD)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lpnsr.models.categories import Category, category_order
from lpnsr.models.windows import WindowAttention, swin_mask

MAX_LOGIT_SCALE = math.log(100.0)


@dataclass(frozen=True)
class ATDConfig:
    """Sizes of an ATD; the defaults are those of UPSR's auxiliary network.

    Attributes:
        channels: embedding width.
        depths: layers of each block.
        heads: attention heads.
        window: side of an attention window.
        entries: tokens of a dictionary, which are also the categories.
        group: tokens that attend to each other after sorting by category.
        similarity_channels: width in which tokens are compared with the dictionary.
        mlp_ratio: hidden width of the MLPs as a multiple of `channels`.
        kernel: side of the depthwise convolution in the MLPs.
        scale: factor between input and output sides.
    """

    channels: int = 96
    depths: tuple[int, ...] = (6, 6, 6, 6)
    heads: int = 4
    window: int = 16
    entries: int = 64
    group: int = 128
    similarity_channels: int = 8
    mlp_ratio: int = 1
    kernel: int = 7
    scale: int = 4

    @property
    def multiple(self) -> int:
        """Input sides must be multiples of this."""
        return self.window


class DictionaryAttention(nn.Module):
    """Attention of all tokens to a dictionary of a few (ATD, section 3.2)."""

    def __init__(self, config: ATDConfig) -> None:
        super().__init__()
        channels, narrow = config.channels, config.similarity_channels
        self.scale = nn.Parameter(torch.full((config.entries,), 0.5))
        self.wq = nn.Linear(channels, narrow)
        self.wk = nn.Linear(channels, narrow)
        self.wv = nn.Linear(channels, channels)

    def forward(self, tokens: Tensor, dictionary: Tensor) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            tokens: (B, n, C).
            dictionary: (B, m, C).

        Returns:
            what the dictionary says to each token (B, n, C), and the similarity (B, n, m) of each
            to its entries before the softmax.
        """
        query, key = _unit(self.wq(tokens)), _unit(self.wk(dictionary))
        sharpness = 1 + self.scale.clamp(0, 1) * math.log(len(self.scale))
        similarity = query @ key.transpose(1, 2) * sharpness
        return similarity.softmax(dim=-1) @ self.wv(dictionary), similarity


class CategoryAttention(nn.Module):
    """Self-attention among tokens of one category, wherever they are (ATD, section 3.3).

    Tokens are sorted by the dictionary entry that they are most similar to, then cut into groups
    of equal size. Ties keep the order of positions.
    """

    def __init__(self, config: ATDConfig) -> None:
        super().__init__()
        self.heads, self.group = config.heads, config.group
        self.category = Category()
        self.logit_scale = nn.Parameter(torch.full((1, 1), math.log(10.0)))
        self.proj = nn.Linear(config.channels, config.channels)

    def forward(self, qkv: Tensor, similarity: Tensor) -> Tensor:
        """Attend inside groups.

        Args:
            qkv: (B, n, 3C) queries, keys and values, n a multiple of the group.
            similarity: (B, n, m) of each token to the categories.

        Returns:
            (B, n, C).
        """
        batch, tokens, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        order, inverse = category_order(self.category(similarity), similarity.shape[2])
        groups = qkv.flatten(0, 1).index_select(0, order)
        query, key, value = (
            part.reshape(-1, self.group, self.heads, channels // self.heads).transpose(1, 2)
            for part in groups.chunk(3, dim=-1)
        )
        scale = self.logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        scores = query @ key.transpose(2, 3) * scale
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2)
        mixed = mixed.reshape(batch * tokens, channels).index_select(0, inverse)
        return self.proj(mixed.reshape(batch, tokens, channels))


class ConvMLP(nn.Module):
    """MLP whose hidden tokens also look at their neighbours, by a depthwise convolution."""

    def __init__(self, config: ATDConfig) -> None:
        super().__init__()
        channels, hidden = config.channels, config.mlp_ratio * config.channels
        depthwise = nn.Conv2d(
            hidden, hidden, config.kernel, padding=config.kernel // 2, groups=hidden
        )
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.ModuleDict({"depthwise_conv": nn.Sequential(depthwise, nn.GELU())})
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """(B, height·width, C) -> (B, height·width, C)."""
        tokens = F.gelu(self.fc1(tokens))
        picture = tokens.transpose(1, 2).unflatten(2, (height, width))
        around = self.dwconv["depthwise_conv"](picture).flatten(2).transpose(1, 2)
        return self.fc2(tokens + around)


class ATDLayer(nn.Module):
    """Three attentions side by side, then an MLP; all but a block's last refine the dictionary."""

    def __init__(self, config: ATDConfig, shift: int, refines: bool) -> None:
        super().__init__()
        channels = config.channels
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        if refines:
            self.norm3 = nn.InstanceNorm1d(config.entries, affine=True)
            self.sigma = nn.Parameter(torch.zeros(config.entries, 1))
        self.wqkv = nn.Linear(channels, 3 * channels)
        self.attn_win = WindowAttention(
            channels, config.heads, config.window, shift, swin_mask, projects=False
        )
        self.attn_atd = DictionaryAttention(config)
        self.attn_aca = CategoryAttention(config)
        self.convffn = ConvMLP(config)

    def forward(
        self, x: Tensor, dictionary: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            x: (B, height·width, C) tokens.
            dictionary: (B, m, C), of unit length along C.
            size: (height, width).

        Returns:
            tokens and dictionary for the next layer.
        """
        normed = self.norm1(x)
        qkv = self.wqkv(normed)
        known, similarity = self.attn_atd(normed, dictionary)
        alike = self.attn_aca(qkv, similarity)
        near = self.attn_win(qkv, *size)
        x = x + (near + known + alike) / math.sqrt(3)
        x = x + self.convffn(self.norm2(x), *size)
        if hasattr(self, "sigma"):
            dictionary = self._refined(dictionary, similarity, x)
        return x, dictionary

    def _refined(self, dictionary: Tensor, similarity: Tensor, x: Tensor) -> Tensor:
        """The dictionary, moved towards the tokens that resemble it (ATD, section 3.2)."""
        share = self.norm3(similarity.softmax(dim=-1).transpose(1, 2)).softmax(dim=-1)
        kept = self.sigma.sigmoid()
        return _unit(kept * dictionary + (1 - kept) * (share @ x))


class DictionaryLayers(nn.Module):
    """Layers that share a dictionary, which each of them refines for the next."""

    def __init__(self, depth: int, config: ATDConfig) -> None:
        super().__init__()
        self.td = nn.Parameter(torch.randn(config.entries, config.channels))
        self.layers = nn.ModuleList(
            ATDLayer(config, i % 2 * (config.window // 2), refines=i < depth - 1)
            for i in range(depth)
        )

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, height·width, C) -> (B, height·width, C)."""
        dictionary = _unit(self.td).expand(x.shape[0], -1, -1)
        for layer in self.layers:
            x, dictionary = layer(x, dictionary, size)
        return x


class ATDBlock(nn.Module):
    """Layers, a convolution, a norm, a skip."""

    def __init__(self, depth: int, config: ATDConfig) -> None:
        super().__init__()
        channels = config.channels
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(channels)})
        self.residual_group = DictionaryLayers(depth, config)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, height·width, C) -> (B, height·width, C)."""
        h = self.residual_group(x, size).transpose(1, 2).unflatten(2, size)
        return x + self.patch_embed["norm"](self.conv(h).flatten(2).transpose(1, 2))


class ATD(nn.Module):
    """ATD-light x4: a first estimate of the picture, from which UPSR tells where to be uncertain.

    Source: Zhang et al., Transcending the Limit of Local Window (ATD, CVPR 2024), in the version
    that UPSR (CVPR 2025) trained on real-world degradations.
    """

    def __init__(self, config: ATDConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.conv_first = nn.Conv2d(3, channels, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(channels)})
        self.layers = nn.ModuleList(ATDBlock(depth, config) for depth in config.depths)
        self.norm = nn.LayerNorm(channels)
        self.conv_after_body = nn.Conv2d(channels, channels, 3, padding=1)
        self.upsample = nn.Sequential(
            nn.Conv2d(channels, 3 * config.scale**2, 3, padding=1), nn.PixelShuffle(config.scale)
        )

    def forward(self, lr: Tensor) -> Tensor:
        """Upsample: (B, 3, h, w) in [-1, 1] -> (B, 3, scale·h, scale·w), about [-1, 1].

        Sides must be multiples of the window.
        """
        x = self.conv_first(lr)
        size = (x.shape[2], x.shape[3])
        tokens = self.patch_embed["norm"](x.flatten(2).transpose(1, 2))
        for layer in self.layers:
            tokens = layer(tokens, size)
        features = self.norm(tokens).transpose(1, 2).unflatten(2, size)
        return self.upsample(x + self.conv_after_body(features))


def _unit(x: Tensor) -> Tensor:
    """Scale to unit length along the last axis."""
    return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
