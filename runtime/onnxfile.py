"""Reads ONNX graphs, such as the files that they refer to, without the onnx package.

An ONNX file is a protocol buffer: a sequence of fields, each with a number and, for the kinds that
matter here, a length and so many bytes, which may be a message with fields of its own.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

_MODEL = {7: "graph", 20: "training", 25: "function"}
_GRAPH = {1: "node", 5: "tensor", 15: "sparse"}
_ATTRIBUTE = {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"}
_FIELDS = {
    "model": _MODEL,
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": _GRAPH,
    "node": {5: "attribute"},
    "attribute": _ATTRIBUTE,
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
"""Message -> number of a field -> the message in it; all other fields refer to no file."""

_KEY, _VALUE = 1, 2
VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
"""Kinds of fields: a number of 7 bits a byte, so many bytes, or a length and bytes."""

Content = bytes | mmap.mmap


class DamagedError(ValueError):
    """A file is not a well-formed ONNX graph."""


def references(path: Path) -> set[str]:
    """The locations of the external data of all tensors in an ONNX file.

    Raises:
        DamagedError: the file is not a well-formed protocol buffer.
        OSError: the file cannot be read.
    """
    if path.stat().st_size == 0:
        raise DamagedError("it is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return set(_locations(content, 0, len(content), "model"))


def _locations(content: Content, start: int, end: int, message: str) -> Iterator[str]:
    pending = [(start, end, message)]
    while pending:
        start, end, message = pending.pop()
        if message == "entry":
            parts = fields(content, start, end)
            entry = {number: content[a:b] for number, kind, a, b in parts if kind == BYTES}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode("utf-8", errors="replace")
            continue
        for number, kind, a, b in fields(content, start, end):
            if kind == BYTES and (inner := _FIELDS[message].get(number)):
                pending.append((a, b, inner))


def fields(content: Content, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number and kind of each field of a message, and start and end of what is in it.

    Raises:
        DamagedError: the message is not well-formed.
    """
    while at < end:
        tag, at = varint(content, at, end)
        kind = tag & 7
        if kind == VARINT:
            _, after = varint(content, at, end)
        elif kind == BYTES:
            length, at = varint(content, at, end)
            if length > end - at:
                raise DamagedError("it is truncated")
            after = at + length
        elif kind in (_FIXED64, _FIXED32):
            after = at + (8 if kind == _FIXED64 else 4)
        else:
            raise DamagedError("it is not an ONNX graph")
        if after > end:
            raise DamagedError("it is truncated")
        yield tag >> 3, kind, at, after
        at = after


def varint(content: Content, at: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the least first, and where it ends.

    Raises:
        DamagedError: there is none.
    """
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise DamagedError("it is truncated")
