"""Predicts whether a picture fits into memory."""

from __future__ import annotations

import psutil

from lpnsr.runtime.pictures.formats import Format
from lpnsr.runtime.pictures.images import Header, ImageError


def needed(header: Header, target: tuple[int, int], kind: Format, computing: int) -> int:
    """An upper bound of the bytes that a picture needs at its peak.

    Args:
        header: the input.
        target: (height, width) of the output.
        kind: the output's format.
        computing: bytes that upscaling needs in addition to input and output.
    """
    pixels, sample = header.size[0] * header.size[1], header.bits // 8
    samples = header.channels * sample
    # Pillow holds 4 bytes per pixel, up to three times, and copies the samples out in two steps;
    # 16-bit pictures are decoded twice and reordered.
    decoding = pixels * (12 + 2 * samples * sample)
    # Grey goes to the model as RGB; hidden colours are found with two 4-byte maps and a palette.
    hidden = 16 * sample if header.channels in (2, 4) else 0
    upscaling = pixels * (samples + 3 * sample + hidden) + computing
    return max(decoding, upscaling + kind.held * target[0] * target[1])


def check(needed: int) -> None:
    """Refuse a picture that does not fit.

    Args:
        needed: bytes that it takes.

    Raises:
        ImageError: the machine has less memory available.
    """
    available = psutil.virtual_memory().available
    if needed > available:
        raise ImageError(
            f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free; "
            "crop or split it"
        )
