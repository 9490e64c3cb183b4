"""Sorting of tokens into categories, well defined and in operators that every engine has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

BLOCK = 64


class Category(nn.Module):
    """The dictionary entry that a token is most similar to.

    Near-ties fall differently in other engines, and all that follows depends on them. This is a
    module of its own so that exported graphs can show what it decides, and a comparison can make
    the same decisions (`watched`).
    """

    def forward(self, similarity: Tensor) -> Tensor:
        """(B, n, m) -> (B, n) int64."""
        return similarity.argmax(dim=-1)


@contextmanager
def watched(module: nn.Module, see: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Show all decisions of `Category` modules in `module` to `see`, which may give others."""
    with ExitStack() as hooks:
        for part in module.modules():
            if isinstance(part, Category):
                hook = part.register_forward_hook(lambda _module, _inputs, own: see(own))
                hooks.callback(hook.remove)
        yield


def category_order(category: Tensor, categories: int) -> tuple[Tensor, Tensor]:
    """The permutation that sorts tokens by category, ties by position, and its inverse.

    A counting sort: a token comes after all tokens of lower categories and after the earlier ones
    of its own. Engines differ in how they sort ties, and TensorRT sorts at most 3840 values; sums
    of ones, by multiplication with triangular matrices, are exact and alike in all of them.

    Args:
        category: (B, n) int64 from 0 to categories - 1, n a multiple of 64.
        categories: how many there are.

    Returns:
        order and inverse, (B·n,) int64 each, into the tokens of the whole batch one after the
        other: `tokens[order]` is sorted, batch entry by batch entry, and `sorted[inverse]` is as
        before.
    """
    batch, tokens = category.shape
    member = (category[..., None] == torch.arange(categories, device=category.device)).float()
    blocks = member.unflatten(1, (tokens // BLOCK, BLOCK))
    totals = blocks.sum(2)
    earlier = _before(BLOCK, member) @ blocks
    earlier = earlier + (_before(tokens // BLOCK, member) @ totals)[:, :, None]
    lower = totals.sum(1, keepdim=True) @ _before(categories, member).T
    rank = ((earlier.flatten(1, 2) + lower) * member).sum(2)

    offset = torch.arange(batch, device=category.device)[:, None] * tokens
    inverse = (rank.long() + offset).flatten()
    position = torch.arange(batch * tokens, device=category.device)
    return torch.zeros_like(position).scatter(0, inverse, position), inverse


def _before(size: int, like: Tensor) -> Tensor:
    """Matrix that sums, for each of `size` rows, the rows before it."""
    return torch.ones(size, size, device=like.device).tril(-1)
