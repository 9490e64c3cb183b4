"""What the UNet and the autoencoder of Stable Diffusion are made of, with diffusers' key names."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ResnetBlock(nn.Module):
    """Residual block: twice group norm, swish, convolution; the timestep shifts what is between.

    Args:
        in_channels: of its input.
        out_channels: of its output.
        groups: of the norms.
        eps: of the norms.
        embedding: width of the timestep's embedding; 0 for a block that does not depend on it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, eps: float, embedding: int = 0
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        if embedding:
            self.time_emb_proj = nn.Linear(embedding, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if in_channels != out_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def shift(self, embedding: Tensor) -> Tensor:
        """What the timestep adds between the convolutions: (B, embedding) -> (B, out, 1, 1)."""
        return self.time_emb_proj(F.silu(embedding))[:, :, None, None]

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """(B, in, H, W) -> (B, out, H, W); `shift` comes from the method of that name."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h if shift is None else h + shift)))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h


class Downsample(nn.Module):
    """Halves the sides with a strided convolution.

    Args:
        channels: of input and output.
        border: what is added around the picture before: left, right, top, bottom.
    """

    def __init__(self, channels: int, border: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.border = border
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, self.border))


def attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, mask: Tensor | None = None
) -> Tensor:
    """Multi-head attention.

    Args:
        query: (B, N, C).
        key: (B or 1, M, C).
        value: like `key`.
        heads: that the channels are divided among.
        mask: (N, M), added to the scores.

    Returns:
        (B, N, C).
    """
    query, key, value = (
        tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (query, key, value)
    )
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    scores = scores if mask is None else scores + mask
    return (scores.softmax(dim=-1) @ value).transpose(1, 2).flatten(2)
