"""Puts our own convolutions into an ONNX graph, without the onnx package.

A convolution of 3x3 values and stride 1, with an addition and an activation after it if there are
any, becomes one node of the operator in `lpnsr.kernels.winograd`.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lpnsr.kernels.winograd import DOMAIN, OPERATOR
from lpnsr.runtime.onnxfile import BYTES, VARINT, DamagedError, fields, varint

_LEAST_CHANNELS = 16
"""Of the input; with fewer, transforming it takes longer than the products that are saved."""

_LEAST_AREA = 16 * 16
"""Values of an output channel; with fewer, reading the transformed weights takes longer."""

_ACTIVATIONS = {"Relu": 0.0, "LeakyRelu": 0.01}
"""Operator -> what it multiplies negative values by, unless its `alpha` says so."""

_EXPECTED: dict[str, object] = {
    "kernel_shape": [3, 3],
    "pads": [1, 1, 1, 1],
    "strides": [1, 1],
    "dilations": [1, 1],
    "group": [1],
    "auto_pad": [b"NOTSET"],
}
"""Attributes of the convolutions that are replaced, where they do not leave them out."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class _Field:
    """A field of a message: its number, what is in it, and all of it as it was written."""

    number: int
    value: bytes
    raw: bytes


@dataclass(frozen=True)
class _Node:
    """A node of a graph, as far as it matters here."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, list[object]]
    raw: bytes


@dataclass
class _Graph:
    """Nodes, and what is known of tensors.

    Attributes:
        nodes: in order; None where a node has become part of a later one.
        weights: name -> shape of float32 initializers.
        shapes: name -> shape of the other tensors.
        uses: name -> how often a tensor is read, or given out.
    """

    nodes: list[_Node | None]
    weights: dict[str, Shape] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    uses: Counter[str] = field(default_factory=Counter)


def with_winograd(model: bytes) -> bytes:
    """An ONNX model with our operator in the place of convolutions that it is faster than.

    Raises:
        DamagedError: the model is not a well-formed protocol buffer.
    """
    try:
        return _with_winograd(model)
    except (ValueError, LookupError, struct.error) as error:
        raise DamagedError("it is not an ONNX graph") from error


def _with_winograd(model: bytes) -> bytes:
    parts = list(_fields(model))
    graph = b"".join(part.value for part in parts if part.number == 7)
    changed = _changed(graph)
    if changed is graph:
        return model
    opset = _message(8, _message(1, DOMAIN.encode()) + _integer(2, 1))
    kept = b"".join(part.raw for part in parts if part.number != 7)
    return kept + _message(7, changed) + opset


def _changed(content: bytes) -> bytes:
    parts = list(_fields(content))
    graph = _read(parts)
    if any(node and "" in node.attributes for node in graph.nodes):
        return content  # a graph in a graph may read any tensor
    if not _replace_convolutions(graph):
        return content
    nodes = b"".join(_message(1, node.raw) for node in graph.nodes if node)
    return nodes + b"".join(part.raw for part in parts if part.number != 1)


def _read(parts: Sequence[_Field]) -> _Graph:
    graph = _Graph([_node(part.value) for part in parts if part.number == 1])
    for node in graph.nodes:
        graph.uses.update(node.inputs if node else ())
    for part in parts:
        if part.number == 5:
            name, shape, is_float = _initializer(part.value)
            if is_float:
                graph.weights[name] = shape
        elif part.number in (11, 12, 13):  # inputs, outputs, and what is between
            name, shape = _value(part.value)
            graph.shapes[name] = shape
            graph.uses[name] += part.number == 12
    return graph


def _replace_convolutions(graph: _Graph) -> bool:
    """Replace what can be; says whether anything was."""
    readers: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        readers |= dict.fromkeys(node.inputs if node else (), index)

    def follower(name: str) -> int | None:
        """The only node that reads a tensor which nothing else wants."""
        return readers.get(name) if graph.uses[name] == 1 else None

    found = False
    for index, node in enumerate(list(graph.nodes)):
        if node is None or not _is_replaced(node, graph):
            continue
        inputs, output, slope, at = node.inputs, node.outputs[0], 1.0, index
        after = follower(output)
        if after is not None and (added := _added(graph, after, output)):
            graph.nodes[at], at = None, after
            inputs, output = (*inputs, added), _outputs(graph, after)[0]
            after = follower(output)
        activation = None if after is None else graph.nodes[after]
        if after is not None and activation and activation.kind in _ACTIVATIONS:
            graph.nodes[at], at = None, after
            output = activation.outputs[0]
            (given,) = activation.attributes.get("alpha", [_ACTIVATIONS[activation.kind]])
            slope = float(given)  # type: ignore[arg-type]
        graph.nodes[at] = _operator(inputs, output, slope)
        found = True
    return found


def _is_replaced(node: _Node, graph: _Graph) -> bool:
    if node.kind != "Conv" or len(node.inputs) != 3:
        return False
    if any(node.attributes.get(name, value) != value for name, value in _EXPECTED.items()):
        return False
    weights, shape = graph.weights.get(node.inputs[1], ()), graph.shapes.get(node.outputs[0], ())
    return (
        node.inputs[2] in graph.weights
        and weights[2:] == (3, 3)
        and weights[1] >= _LEAST_CHANNELS
        and len(shape) == 4
        and shape[2] * shape[3] >= _LEAST_AREA
    )


def _added(graph: _Graph, index: int, name: str) -> str | None:
    """What the node of this index adds to a tensor, if that is all it does."""
    node = graph.nodes[index]
    if node is None or node.kind != "Add":
        return None
    other = node.inputs[node.inputs[0] == name]
    same = graph.shapes.get(other) == graph.shapes.get(name)
    return other if same and other not in graph.weights else None


def _outputs(graph: _Graph, index: int) -> tuple[str, ...]:
    node = graph.nodes[index]
    return node.outputs if node else ()


def _operator(inputs: tuple[str, ...], output: str, slope: float) -> _Node:
    value = struct.pack("<f", slope)
    attribute = _message(1, b"slope") + b"\x15" + value + _integer(20, 1)  # field 2: a float
    raw = b"".join(
        [
            *(_message(1, name.encode()) for name in inputs),
            _message(2, output.encode()),
            _message(3, output.encode()),
            _message(4, OPERATOR.encode()),
            _message(5, attribute),
            _message(7, DOMAIN.encode()),
        ]
    )
    return _Node(OPERATOR, inputs, (output,), {}, raw)


def _node(content: bytes) -> _Node:
    """A node; that it holds a graph is shown by an attribute without a name."""
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
    return _Node(kind, tuple(inputs), tuple(outputs), attributes, content)


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
            values += _integers(part.value)
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
