"""Sizes of tiles as users write them."""

from __future__ import annotations

import argparse
import re

from lpnsr.runtime.tiles.tiling import ALIGNMENT


def parse_tile(text: str) -> tuple[int, int]:
    """(height, width) of a tile from `64` or `128x64`, in input pixels.

    Raises:
        argparse.ArgumentTypeError: the text is neither, or a side is not a positive multiple of
            `ALIGNMENT`.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,5}))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a tile size such as 64 or 128x64")
    height, width = int(match[1]), int(match[2] or match[1])
    if height % ALIGNMENT or width % ALIGNMENT:
        raise argparse.ArgumentTypeError(
            f"the sides of tile {height}x{width} must be multiples of {ALIGNMENT} pixels"
        )
    return height, width
