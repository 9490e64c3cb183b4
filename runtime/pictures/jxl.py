"""What JPEG XL files hold that Pillow's plugin for them drops without saying so.

The plugin reduces colors to 8 bits, gives the last frame of several, and passes over XMP and all
metadata that is packed. What tells are boxes and a header as ISO/IEC 18181-2 and -1 have them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MARK = b"\xff\x0a"
"""What a codestream begins with."""

_LENGTH = 64
"""Bytes behind it that hold what is read here."""

Forms = tuple[tuple[int, int], ...]
"""Of a number: the least value of each form, and how many bits are added."""

_SIDE: Forms = ((1, 9), (1, 13), (1, 18), (1, 30))
_PREVIEW_SIDE: Forms = ((1, 6), (65, 8), (321, 10), (1345, 12))
_SMALL_PREVIEW_SIDE: Forms = ((16, 0), (32, 0), (1, 5), (33, 9))
_TICKS: Forms = ((100, 0), (1000, 0), (1, 10), (1, 30))
_PARTS: Forms = ((1, 0), (1001, 0), (1, 8), (1, 10))
_LOOPS: Forms = ((0, 0), (0, 3), (0, 16), (0, 32))
_INTEGER_BITS: Forms = ((8, 0), (10, 0), (12, 0), (1, 6))
_FLOAT_BITS: Forms = ((32, 0), (16, 0), (24, 0), (1, 6))

_UNREAD = {b"xml ": "XMP", b"brobxml ": "XMP", b"brobExif": "EXIF"}
"""Kinds of boxes; the second word is what is packed in one."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        bits: of a sample.
        animated: whether there may be several frames.
        unread: names of metadata that the plugin does not read.
    """

    bits: int
    animated: bool
    unread: tuple[str, ...] = ()


class _Bits:
    """Reads numbers bit by bit, the lowest of a byte first; behind the end all are zero."""

    def __init__(self, content: bytes) -> None:
        self._left = int.from_bytes(content, "little")

    def take(self, count: int = 1) -> int:
        value = self._left & ((1 << count) - 1)
        self._left >>= count
        return value

    def number(self, forms: Forms) -> int:
        least, count = forms[self.take(2)]
        return least + self.take(count)


def contents(path: Path) -> Contents:
    """What a JPEG XL file holds.

    Raises:
        OSError: the file cannot be read.
    """
    start = b""
    unread: list[str] = []
    with path.open("rb") as file:
        if file.read(2) == _MARK:
            return Contents(*_header(file.read(_LENGTH)))
        for kind, place, length in _boxes(file):
            file.seek(place)
            if kind == b"brob":
                kind += file.read(4)
            if kind == b"jxlp":
                length -= len(file.read(4))  # its number
            if kind in (b"jxlc", b"jxlp"):
                start += file.read(max(0, min(length, _LENGTH - len(start))))
            if kind in _UNREAD:
                unread.append(_UNREAD[kind])
    return Contents(*_header(start.removeprefix(_MARK)), tuple(dict.fromkeys(unread)))


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind of each box, place and length of its content."""
    at, end = 0, file.seek(0, 2)
    while at + 8 <= end:
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        size = size or end - at
        place = file.tell()
        if place > at + size:  # damage
            return
        yield kind, place, at + size - place
        at += size


def _header(content: bytes) -> tuple[int, bool]:
    """The bits of a sample, and whether there may be several frames."""
    bits = _Bits(content)
    _skip_size(bits)
    if bits.take():  # all is as usual
        return 8, False
    animated = 0
    if bits.take():  # more than usual
        bits.take(3)  # how it is turned
        if bits.take():
            _skip_size(bits)
        if bits.take():
            _skip_preview(bits)
        animated = bits.take()
        if animated:
            for forms in (_TICKS, _PARTS, _LOOPS):
                bits.number(forms)
            bits.take()  # whether frames bear times
    return bits.number(_FLOAT_BITS if bits.take() else _INTEGER_BITS), bool(animated)


def _skip_size(bits: _Bits) -> None:
    is_small = bits.take()

    def skip_side() -> None:
        if is_small:
            bits.take(5)
        else:
            bits.number(_SIDE)

    skip_side()
    if not bits.take(3):  # else it tells the ratio of the sides
        skip_side()


def _skip_preview(bits: _Bits) -> None:
    forms = _SMALL_PREVIEW_SIDE if bits.take() else _PREVIEW_SIDE
    bits.number(forms)
    if not bits.take(3):
        bits.number(forms)
