"""BMP pictures whose samples are bit fields, of any width and in any order."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_BIT_FIELDS, _ALPHA_BIT_FIELDS = 3, 6
"""Values of the header's compression."""

_MASKS = 54
"""Where they are, in the header or after it."""


@dataclass(frozen=True)
class BitFields:
    """The picture of such a file; described by the names that Pillow's images use.

    Attributes:
        path: the file.
        size: (height, width).
        offset: of the pixels in the file.
        word: bytes of a pixel, 2 or 4.
        masks: of red, green, blue, and alpha if there is any.
        upward: whether the lowest row comes first.
        dpi: pixels per inch, across and down, zeros for unknown.
    """

    path: Path
    size: tuple[int, int]
    offset: int
    word: int
    masks: tuple[int, ...]
    upward: bool
    dpi: tuple[float, float]

    mode = "RGB"
    frames = 1
    extra = False

    @property
    def bits(self) -> int:
        """8 or 16 per sample, as `pixels` returns them."""
        return 16 if max(mask.bit_count() for mask in self.masks) > 8 else 8

    @property
    def channels(self) -> int:
        """3, or 4 with alpha."""
        return len(self.masks)

    @property
    def info(self) -> dict[str, Any]:
        """The resolution."""
        return {"dpi": self.dpi}

    def getexif(self) -> Image.Exif:
        """No tags."""
        return Image.Exif()

    def pixels(self) -> np.ndarray:
        """Decode the file; returns uint8 or uint16 (H, W, 3 or 4).

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged.
        """
        height, width = self.size
        row = -(-width * self.word // 4) * 4
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read(row * height)
        if len(content) < row * height:
            raise ValueError("the pixels are truncated")
        words = np.frombuffer(content, f"<u{self.word}").reshape(height, -1)[:, :width]
        samples = [_samples(words, mask, 2**self.bits - 1) for mask in self.masks]
        pixels = np.stack(samples, axis=-1).astype(f"u{self.bits // 8}")
        if self.channels == 4 and not pixels[..., 3].any():  # unused, as in many files
            pixels = pixels[..., :3]
        return pixels[::-1] if self.upward else pixels


def opened(path: Path) -> BitFields | None:
    """Read the header of a BMP file with bit fields; gives None for any other file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    with path.open("rb") as file:
        head = file.read(_MASKS + 16)
    if len(head) < _MASKS + 16 or head[:2] != b"BM":
        return None
    offset, header, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
    fields = compression in (_BIT_FIELDS, _ALPHA_BIT_FIELDS)
    if header < 40 or not fields or bits not in (16, 32):
        return None
    masks = struct.unpack_from("<4I", head, _MASKS)
    if not masks[3] or (header < 56 and compression != _ALPHA_BIT_FIELDS):
        masks = masks[:3]
    if width <= 0 or height == 0 or not all(map(_is_whole, masks)) or max(masks) >> bits:
        raise ValueError("the header makes no sense")
    across, down = (0.0254 * value for value in struct.unpack_from("<ii", head, 38))
    size = (abs(height), width)
    return BitFields(path, size, offset, bits // 8, masks, height > 0, (across, down))


def _is_whole(mask: int) -> bool:
    """Whether a mask's bits are neighbours."""
    return mask > 0 and mask.bit_length() - mask.bit_count() == _shift(mask)


def _shift(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def _samples(words: np.ndarray, mask: int, full: int) -> np.ndarray:
    """The samples under a mask, 0 to `full`."""
    most = mask >> _shift(mask)
    values = (words.astype(np.uint64) & np.uint64(mask)) >> np.uint64(_shift(mask))
    return (values * np.uint64(full) + np.uint64(most // 2)) // np.uint64(most)
