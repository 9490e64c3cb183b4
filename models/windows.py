"""Window attention: square windows, cyclic shift, relative position bias (Swin Transformer)."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import torch
from torch import Tensor, nn

MASKED = -100.0
ShiftMask = Callable[[int, int, int, int], Tensor]
Table = TypeVar("Table")


def tabulated(function: Callable[..., Table]) -> Callable[..., Table]:
    """Compute a table once per arguments.

    Unlike with `lru_cache`, into which the exporter looks, a table that exists when a network is
    traced is a constant of the graph.
    """
    tables: dict[tuple[int, ...], Table] = {}

    @wraps(function)
    def lookup(*sizes: int) -> Table:
        if sizes not in tables:
            tables[sizes] = function(*sizes)
        return tables[sizes]

    return lookup


@tabulated
def window_order(height: int, width: int, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """The permutation that sorts row-major tokens into shifted windows, and its inverse.

    Shift, partition and their undoing are one gather each, in eager mode as in the exported graph.

    Returns:
        two int64 tensors of length height·width.
    """
    order = torch.arange(height * width).reshape(height, width)
    order = order.roll((-shift, -shift), (0, 1))
    order = order.reshape(height // window, window, width // window, window)
    order = order.transpose(1, 2).flatten()
    return order, order.argsort()


@tabulated
def swin_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Additive mask that keeps tokens apart which only the cyclic shift made neighbours.

    Returns:
        (windows, 1, window², window²) float32, 0 where attention is allowed, -100 elsewhere.
    """
    region = 3 * _axis_region(height, window, shift)[:, None] + _axis_region(width, window, shift)
    region = region.reshape(height // window, window, width // window, window).transpose(1, 2)
    return _mask_between_regions(region.reshape(-1, window * window))


@tabulated
def resshift_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """The mask that the Swin-UNets of ResShift and LPNSR were trained with.

    It differs from Swin's: only the last row of windows is split, and along its columns where the
    shift has wrapped rows. The published weights expect it so.

    Returns:
        as `swin_mask`.
    """
    region = _axis_region(height, window, shift).reshape(height // window, 1, 1, window)
    region = region.expand(height // window, width // window, window, window)
    return _mask_between_regions(region.reshape(-1, window * window))


def _mask_between_regions(region: Tensor) -> Tensor:
    return torch.where(region[:, None, :] != region[:, :, None], MASKED, 0.0)[:, None]


def _axis_region(size: int, window: int, shift: int) -> Tensor:
    """After the shift: 0 for untouched windows, 1 and 2 for the two halves of the last one."""
    position = torch.arange(size)
    return (position >= size - window).long() + (position >= size - shift).long()


@tabulated
def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each (query, key) pair of a window: (window⁴,) int64."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    rows = row.flatten()[:, None] - row.flatten() + window - 1
    columns = column.flatten()[:, None] - column.flatten() + window - 1
    return (rows * (2 * window - 1) + columns).flatten()


class WindowAttention(nn.Module):
    """Multi-head self-attention inside (shifted) windows, with relative position bias.

    Source: Liu et al., Swin Transformer (2021), section 3.2.

    Args:
        channels: embedding width.
        heads: attention heads.
        window: side of a window.
        shift: how far the windows are shifted.
        shift_mask: makes the mask for shifted windows.
        projects: whether it computes queries, keys and values itself; if not, tokens come in as
            these three, concatenated.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        shift: int,
        shift_mask: ShiftMask,
        projects: bool = True,
    ) -> None:
        super().__init__()
        self.shift_mask = shift_mask
        self.channels, self.heads, self.window, self.shift = channels, heads, window, shift
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels) if projects else nn.Identity()
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Attend inside windows: row-major tokens (B, height·width, C or 3C) in, C channels out.

        Both sides must be multiples of the window.
        """
        order, inverse = (
            index.to(tokens.device)
            for index in window_order(height, width, self.window, self.shift)
        )
        area = self.window * self.window
        batch, channels = tokens.shape[0], self.channels

        # Four dimensions and no more: so written, OpenVINO makes one operation of an attention.
        query, key, value = (
            part.reshape(-1, area, self.heads, channels // self.heads).transpose(1, 2)
            for part in self.qkv(tokens.index_select(1, order)).chunk(3, dim=-1)
        )
        scores = (query * self.scale) @ key.transpose(2, 3) + self._bias(area)
        if self.shift:
            mask = self.shift_mask(height, width, self.window, self.shift)
            scores = scores + mask.to(scores).repeat(batch, 1, 1, 1)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2)
        mixed = mixed.reshape(batch, height * width, channels)
        return self.proj(mixed.index_select(1, inverse))

    def _bias(self, area: int) -> Tensor:
        """Relative position bias, (heads, area, area)."""
        index = relative_position_index(self.window).to(self.relative_position_bias_table.device)
        bias = self.relative_position_bias_table.index_select(0, index)
        return bias.reshape(area, area, self.heads).permute(2, 0, 1)
