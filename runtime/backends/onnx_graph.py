"""Reads the graph of an ONNX model, and writes it with other nodes, without the onnx package."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lpnsr.runtime.onnxfile import BYTES, VARINT, DamagedError, fields, varint

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Field:
    """A field of a message: its number, what is in it, and all of it as it was written."""

    number: int
    value: bytes
    raw: bytes


@dataclass(frozen=True)
class Node:
    """A node of a graph, as far as it matters here.

    Attributes:
        kind: the operator; "" if it is none of ONNX itself.
        inputs: names.
        outputs: names.
        attributes: name -> values; a graph in the node is shown by one without a name.
        raw: the message as it was written.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, list[object]]
    raw: bytes

    def number(self, name: str, default: float) -> float:
        """The only value of an attribute."""
        (value,) = self.attributes.get(name, [default])
        return float(value)  # type: ignore[arg-type]


@dataclass
class OnnxGraph:
    """Nodes, and what is known of tensors.

    Attributes:
        nodes: in order; None where a node has become part of a later one.
        weights: name -> shape of float32 initializers.
        shapes: name -> shape of the other tensors.
        uses: name -> how often a tensor is read, or given out.
        readers: name -> index of each node that reads it, as the graph was read.
        makers: name -> index of the node that makes it.
    """

    nodes: list[Node | None]
    weights: dict[str, Shape] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)
    readers: dict[str, list[int]] = field(default_factory=dict)
    makers: dict[str, int] = field(default_factory=dict)

    def follower(self, name: str, *kinds: str) -> int | None:
        """The only node that reads a tensor which nothing else wants, if it is of these kinds."""
        if self.uses[name] != 1 or not (readers := self.readers.get(name)):
            return None
        return readers[0] if self.is_kind(readers[0], *kinds) else None

    def maker(self, name: str, kind: str) -> int | None:
        """The node that makes a tensor for one other node, if it is of this kind."""
        index = self.makers.get(name)
        if index is None or self.uses[name] != 1:
            return None
        return index if self.is_kind(index, kind) else None

    def is_kind(self, index: int, *kinds: str) -> bool:
        """Whether a node is still there, and one of these."""
        node = self.nodes[index]
        return node is not None and node.kind in kinds

    def __getitem__(self, index: int) -> Node:
        """A node that is still there."""
        node = self.nodes[index]
        assert node is not None
        return node

    def fuse(self, indices: Sequence[int], node: Node) -> None:
        """Put one node in the place of the last of several, without the others."""
        for index in indices:
            self.nodes[index] = None
        self.nodes[max(indices)] = node


def rewritten(model: bytes, rewrite: Callable[[OnnxGraph], bool], domain: str) -> bytes:
    """A model whose graph has other nodes.

    Args:
        model: as a file holds it.
        rewrite: changes the nodes of the graph; says whether it has. It is not asked about a graph
            with graphs in it, which may read any tensor.
        domain: of operators that the new nodes may be of.

    Raises:
        DamagedError: the model is not a well-formed protocol buffer.
    """
    try:
        return _rewritten(model, rewrite, domain)
    except (ValueError, LookupError, struct.error) as error:
        raise DamagedError("it is not an ONNX graph") from error


def _rewritten(model: bytes, rewrite: Callable[[OnnxGraph], bool], domain: str) -> bytes:
    parts = list(_fields(model))
    content = list(_fields(b"".join(part.value for part in parts if part.number == 7)))
    graph = _read(content)
    if any(node and "" in node.attributes for node in graph.nodes) or not rewrite(graph):
        return model
    nodes = b"".join(_message(1, node.raw) for node in graph.nodes if node)
    changed = nodes + b"".join(part.raw for part in content if part.number != 1)
    opset = _message(8, _message(1, domain.encode()) + _integer(2, 1))
    kept = b"".join(part.raw for part in parts if part.number != 7)
    return kept + _message(7, changed) + opset


def _read(parts: Sequence[_Field]) -> OnnxGraph:
    graph = OnnxGraph([_node(part.value) for part in parts if part.number == 1])
    for index, node in enumerate(graph.nodes):
        graph.uses.update(node.inputs if node else ())
        for name in dict.fromkeys(node.inputs if node else ()):
            graph.readers.setdefault(name, []).append(index)
        graph.makers |= dict.fromkeys(node.outputs if node else (), index)
    for part in parts:
        if part.number == 5:
            name, shape, is_float = _initializer(part.value)
            (graph.weights if is_float else graph.shapes)[name] = shape
        elif part.number in (11, 12, 13):  # inputs, outputs, and what is between
            name, shape = _value(part.value)
            graph.shapes[name] = shape
            graph.uses[name] += part.number == 12
    return graph


def operator(
    kind: str, domain: str, inputs: Sequence[str], output: str, **attributes: float | int
) -> Node:
    """A node of our own."""
    raw = b"".join(
        [
            *(_message(1, name.encode()) for name in inputs),
            _message(2, output.encode()),
            _message(3, output.encode()),
            _message(4, kind.encode()),
            *(_message(5, _number(name, value)) for name, value in attributes.items()),
            _message(7, domain.encode()),
        ]
    )
    return Node(kind, tuple(inputs), (output,), {}, raw)


def _number(name: str, value: float | int) -> bytes:
    if isinstance(value, int):
        return _message(1, name.encode()) + _integer(3, value) + _integer(20, 2)
    packed = struct.pack("<f", value)
    return _message(1, name.encode()) + b"\x15" + packed + _integer(20, 1)  # field 2: a float


def _node(content: bytes) -> Node:
    inputs, outputs, attributes, kind = [], [], {}, ""
    for part in _fields(content):
        if part.number == 1:
            inputs.append(part.value.decode())
        elif part.number == 2:
            outputs.append(part.value.decode())
        elif part.number == 4:
            kind = part.value.decode()
        elif part.number == 5:
            name, values = _attribute(part.value)
            attributes[name] = values
        elif part.number == 7 and part.value not in (b"", b"ai.onnx"):
            kind = ""  # an operator of another kind
    return Node(kind, tuple(inputs), tuple(outputs), attributes, content)


def _attribute(content: bytes) -> tuple[str, list[object]]:
    name, values = "", list[object]()
    for part in _fields(content):
        if part.number == 1:
            name = part.value.decode()
        elif part.number == 2:
            values += struct.unpack("<f", part.value)
        elif part.number == 4:
            values.append(part.value)
        elif part.number in (3, 8):
            values += [(value ^ 1 << 63) - (1 << 63) for value in _integers(part.value)]  # signed
        elif part.number in (6, 11):
            return "", []
    return name, values


def _initializer(content: bytes) -> tuple[str, Shape, bool]:
    name, shape, kind = "", list[int](), [0]
    for part in _fields(content):
        if part.number == 1:
            shape += _integers(part.value)
        elif part.number == 2:
            kind = _integers(part.value)
        elif part.number == 8:
            name = part.value.decode()
    return name, tuple(shape), kind == [1]


def _value(content: bytes) -> tuple[str, Shape]:
    """Name and shape of a tensor; no shape where it is not known."""
    name, dimensions = "", [content]
    for part in _fields(content):
        if part.number == 1:
            name = part.value.decode()
    for number in (2, 1, 2, 1):  # type, of a tensor, its shape, its dimensions
        dimensions = [p.value for d in dimensions for p in _fields(d) if p.number == number]
    sizes = [[p.value for p in _fields(d) if p.number == 1] for d in dimensions]
    if not all(sizes):
        return name, ()
    return name, tuple(_integers(size)[0] for (size,) in sizes)


def _fields(content: bytes) -> Iterator[_Field]:
    before = 0
    for number, _, start, end in fields(content, 0, len(content)):
        yield _Field(number, content[start:end], content[before:end])
        before = end


def _integers(content: bytes) -> list[int]:
    """The numbers that follow one another."""
    values, at = list[int](), 0
    while at < len(content):
        value, at = varint(content, at, len(content))
        values.append(value)
    return values


def _message(number: int, content: bytes) -> bytes:
    return _written(number << 3 | BYTES) + _written(len(content)) + content


def _integer(number: int, value: int) -> bytes:
    return _written(number << 3 | VARINT) + _written(value)


def _written(value: int) -> bytes:
    """A number of 7 bits a byte, the least first."""
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)
