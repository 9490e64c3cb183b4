"""Markdown of tables; loads nothing, so that commands explain themselves on any machine."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table.

    Args:
        header: titles of the columns.
        lines: the cells of each row, as many as there are titles.
    """
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
