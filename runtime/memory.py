"""Works out beforehand whether a picture fits into memory."""

from __future__ import annotations

import psutil

from lpnsr.runtime.formats import Format
from lpnsr.runtime.images import Header, ImageError


def of_files(header: Header, target: tuple[int, int], kind: Format) -> int:
    """Bytes that decoding and encoding need at their peak.

    Args:
        header: the input.
        target: (height, width) of the output.
        kind: the output's format.
    """
    samples = header.channels * header.bits // 8
    # Pillow holds 4 bytes per pixel; hidden colors are filled with the help of two 4-byte maps.
    decoding = header.size[0] * header.size[1] * (samples + max(samples, 4) + 4)
    return decoding + (0 if kind.streams else 4 * target[0] * target[1])


def check(needed: int) -> None:
    """Refuse a picture that does not fit.

    Args:
        needed: bytes that it takes.

    Raises:
        ImageError: the machine has less to offer.
    """
    available = psutil.virtual_memory().available
    if needed > available:
        raise ImageError(
            f"needs {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are free; "
            "crop or split it"
        )
