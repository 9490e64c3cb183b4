"""Finds the files that an ONNX graph refers to, without the onnx package.

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
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


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


def _locations(content: mmap.mmap, start: int, end: int, message: str) -> Iterator[str]:
    pending = [(start, end, message)]
    while pending:
        start, end, message = pending.pop()
        if message == "entry":
            entry = {number: content[a:b] for number, a, b in _fields(content, start, end)}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode("utf-8", errors="replace")
            continue
        for number, a, b in _fields(content, start, end):
            if inner := _FIELDS[message].get(number):
                pending.append((a, b, inner))


def _fields(content: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of each field that has a length."""
    while at < end:
        tag, at = _varint(content, at, end)
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(content, at, end)
        elif kind == _BYTES:
            length, at = _varint(content, at, end)
            if length > end - at:
                raise DamagedError("it is truncated")
            yield tag >> 3, at, at + length
            at += length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise DamagedError("it is no ONNX graph")
    if at > end:
        raise DamagedError("it is truncated")


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the least first, and where it ends."""
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
