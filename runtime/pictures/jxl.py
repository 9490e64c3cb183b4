"""What JPEG XL files say of themselves that Pillow's plugin for them keeps to itself.

The plugin reduces colors to 8 bits, and gives the last frame of several. The header that tells is
that of ISO/IEC 18181-1, annex D.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_LENGTH = 64
"""Bytes at the beginning of a codestream that hold what is read here."""

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


@dataclass(frozen=True)
class Codestream:
    """What a codestream's header says.

    Attributes:
        bits: of a sample.
        animated: whether there may be several frames.
    """

    bits: int
    animated: bool


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


def codestream(path: Path) -> Codestream:
    """Read the header of a JPEG XL file.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        bits = _Bits(_start(file))
    _skip_size(bits)
    if bits.take():  # all is as usual
        return Codestream(8, False)
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
    return Codestream(bits.number(_FLOAT_BITS if bits.take() else _INTEGER_BITS), bool(animated))


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


def _start(file: BinaryIO) -> bytes:
    """A codestream's first bytes behind its mark, from a file that may consist of boxes."""
    mark = file.read(2)
    if mark == b"\xff\x0a":
        return file.read(_LENGTH)
    file.seek(0)
    found = b""
    while len(found) < _LENGTH and len(head := file.read(8)) == 8:
        begin = file.tell() - 8
        size, kind = struct.unpack(">I4s", head)
        if size == 1:
            size = int.from_bytes(file.read(8), "big")
        if kind == b"jxlp":
            file.read(4)  # its number
        if kind in (b"jxlc", b"jxlp"):
            left = begin + size - file.tell() if size else _LENGTH
            found += file.read(max(0, min(left, _LENGTH)))
        if size < 8:  # the last box, or damage
            break
        file.seek(begin + size)
    return found[2:]
