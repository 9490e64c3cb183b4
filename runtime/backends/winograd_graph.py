"""Puts our own operators into an ONNX graph.

A convolution of 3x3 values and stride 1, with an addition and an activation after it if there are
any, becomes one node; so do the four convolutions that stand for an upsampling and a convolution, a
group normalisation with the factors, addends and swish after it, and attention inside windows.
"""

from __future__ import annotations

from math import prod

from lpnsr.kernels.operators import ATTENTION, CONV, DOMAIN, GROUP_NORM, UPSAMPLE
from lpnsr.runtime.backends.onnx_graph import Node, OnnxGraph, Shape, operator, rewritten

_LEAST_CHANNELS = 16
"""Of the input; with fewer, transforming it takes longer than the products that are saved."""

_LEAST_AREA = 16 * 16
"""Values of an output channel; with fewer, reading the transformed weights takes longer."""

_ACTIVATIONS = {"Relu": 0.0, "LeakyRelu": 0.01}
"""Operator -> what it multiplies negative values by, unless its `alpha` says so."""

_EXPECTED: dict[str, object] = {
    "strides": [1, 1],
    "dilations": [1, 1],
    "group": [1],
    "auto_pad": [b"NOTSET"],
}
"""Attributes of the convolutions that are replaced, where they do not leave them out."""

_PHASES = ([1, 1, 0, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1])
"""Padding of the convolutions that stand for one after an upsampling, in their order."""

_MOST_INPUTS = 7
"""Of a group normalisation: the values, and pairs of factors and addends."""


def with_winograd(model: bytes) -> bytes:
    """An ONNX model with our operators in the place of nodes that they are faster than.

    Raises:
        DamagedError: the model is not a well-formed protocol buffer.
    """
    return rewritten(model, _replace, DOMAIN)


def _replace(graph: OnnxGraph) -> bool:
    before = list(graph.nodes)
    for index, node in enumerate(before):
        if node is None:
            continue
        if _is_convolution(graph, node, 3, [1, 1, 1, 1]):
            _replace_convolution(graph, index)
        elif node.kind == "DepthToSpace":
            _replace_upsampling(graph, index)
        elif node.kind == "InstanceNormalization":
            _replace_group_norm(graph, index)
        elif node.kind == "Softmax":
            _replace_attention(graph, index)
    return any(now is not node for now, node in zip(graph.nodes, before, strict=True))


def _is_convolution(graph: OnnxGraph, node: Node, side: int, pads: list[int]) -> bool:
    """Whether a node is a convolution with these sides and borders that we are faster at."""
    if node.kind != "Conv" or len(node.inputs) != 3:
        return False
    expected = {"kernel_shape": [side, side], "pads": pads} | _EXPECTED
    if any(node.attributes.get(name, value) != value for name, value in expected.items()):
        return False
    weights, shape = graph.weights.get(node.inputs[1], ()), graph.shapes.get(node.outputs[0], ())
    return (
        node.inputs[2] in graph.weights
        and weights[2:] == (side, side)
        and weights[1] >= _LEAST_CHANNELS
        and len(shape) == 4
        and shape[2] * shape[3] >= _LEAST_AREA
    )


def _replace_convolution(graph: OnnxGraph, index: int) -> None:
    node, fused = graph[index], [index]
    inputs, output = node.inputs, node.outputs[0]
    after = graph.follower(output, "Add")
    if after is not None:
        added = _other(graph[after], output)
        if graph.shapes.get(added) == graph.shapes[output] and added not in graph.weights:
            inputs, output, fused = (*inputs, added), graph[after].outputs[0], [*fused, after]
    _fuse_activated(graph, fused, CONV, inputs, output)


def _replace_upsampling(graph: OnnxGraph, index: int) -> None:
    """The four phases of a convolution after an upsampling, joined and woven into one picture."""
    woven = graph[index]
    joined = graph.maker(woven.inputs[0], "Concat")
    is_woven = woven.attributes == {"blocksize": [2], "mode": [b"DCR"]}
    if joined is None or not is_woven or graph[joined].attributes != {"axis": [1]}:
        return
    phases = [graph.maker(name, "Conv") for name in graph[joined].inputs]
    found = [phase for phase in phases if phase is not None]
    nodes = [graph[phase] for phase in found]
    if len(nodes) != len(_PHASES) or not all(
        _is_convolution(graph, node, 2, pads) for node, pads in zip(nodes, _PHASES, strict=True)
    ):
        return
    shared = {(node.inputs[0], node.inputs[2], graph.weights[node.inputs[1]]) for node in nodes}
    if len(shared) != 1:
        return
    inputs = (nodes[0].inputs[0], *(node.inputs[1] for node in nodes), nodes[0].inputs[2])
    _fuse_activated(graph, [*found, joined, index], UPSAMPLE, inputs, woven.outputs[0])


def _fuse_activated(
    graph: OnnxGraph, fused: list[int], kind: str, inputs: tuple[str, ...], output: str
) -> None:
    """Puts one node in the place of several and the activation after them, if there is one."""
    slope, after = 1.0, graph.follower(output, *_ACTIVATIONS)
    if after is not None:
        activation = graph[after]
        output, fused = activation.outputs[0], [*fused, after]
        slope = activation.number("alpha", _ACTIVATIONS[activation.kind])
    graph.fuse(fused, operator(kind, DOMAIN, inputs, output, slope=slope))


def _replace_group_norm(graph: OnnxGraph, index: int) -> None:
    """Groups, which were made planes for it, normalised; then what each channel is scaled by."""
    norm = graph[index]
    before = graph.maker(norm.inputs[0], "Reshape")
    after = graph.follower(norm.outputs[0], "Reshape")
    if before is None or after is None:
        return
    source, output = graph[before].inputs[0], graph[after].outputs[0]
    shape, planes = graph.shapes.get(source, ()), graph.shapes.get(norm.inputs[0], ())
    groups = {graph.weights.get(name) for name in norm.inputs[1:]}
    if groups != {planes[1:2]} or planes[:1] != shape[:1] or graph.shapes.get(output) != shape:
        return
    if len(shape) != 4 or not planes[1] or shape[1] % planes[1]:
        return
    inputs, fused = [source, *norm.inputs[1:]], [before, index, after]
    while len(inputs) < _MOST_INPUTS and (found := _scaled(graph, output, shape[1])):
        names, nodes = found
        inputs, fused, output = [*inputs, *names], [*fused, *nodes], graph[nodes[-1]].outputs[0]
    swish = _swish(graph, output)
    if swish:
        fused, output = [*fused, *swish], graph[swish[-1]].outputs[0]
    epsilon = norm.number("epsilon", 1e-5)
    node = operator(GROUP_NORM, DOMAIN, inputs, output, epsilon=epsilon, swish=int(bool(swish)))
    graph.fuse(fused, node)


def _scaled(graph: OnnxGraph, name: str, channels: int) -> tuple[list[str], list[int]] | None:
    """What channels are multiplied by and then increased by, and the nodes that do so."""
    names, nodes = [], []
    for kind in ("Mul", "Add"):
        after = graph.follower(name, kind)
        if after is None:
            return None
        constant, name = _other(graph[after], name), graph[after].outputs[0]
        shape = graph.weights.get(constant, ())
        if prod(shape) != channels or shape[-3:] != (channels, 1, 1):
            return None
        names.append(constant)
        nodes.append(after)
    return names, nodes


def _swish(graph: OnnxGraph, name: str) -> list[int]:
    """The nodes that multiply a tensor, which nothing else wants, by its sigmoid."""
    readers = graph.readers.get(name, [])
    gates = [index for index in readers if graph.is_kind(index, "Sigmoid")]
    if len(readers) != 2 or graph.uses[name] != 2 or len(gates) != 1:
        return []
    gate = graph[gates[0]].outputs[0]
    after = graph.follower(gate, "Mul")
    return [*gates, after] if after in readers else []


def _replace_attention(graph: OnnxGraph, index: int) -> None:
    """A softmax, the scores before it and what it mixes, from the split of all heads' values on."""
    softmax, fused = graph[index], [index]
    addends, score = list[str](), softmax.inputs[0]
    while (add := graph.maker(score, "Add")) is not None:
        score, addend = graph[add].inputs
        fused, addends = [*fused, add], [addend, *addends]
    mixing, product = graph.follower(softmax.outputs[0], "MatMul"), graph.maker(score, "MatMul")
    if mixing is None or product is None or not 1 <= len(addends) <= 2:
        return
    scaled = graph.maker(graph[product].inputs[0], "Mul")
    turned = graph.follower(graph[mixing].outputs[0], "Transpose")
    if scaled is None or turned is None or graph[turned].attributes != {"perm": [0, 2, 1, 3]}:
        return
    merged = graph.follower(graph[turned].outputs[0], "Reshape")
    heads, scale = graph[scaled].inputs
    parts = [
        _heads(graph, heads, [0, 2, 1, 3]),
        _heads(graph, graph[product].inputs[1], [0, 2, 3, 1]),
        _heads(graph, graph[mixing].inputs[1], [0, 2, 1, 3]),
    ]
    split = graph.maker(graph[parts[0][-1]].inputs[0], "Split") if all(parts) else None
    if merged is None or split is None or softmax.attributes.get("axis", [-1]) != [-1]:
        return
    sources = tuple(graph[part[-1]].inputs[0] for part in parts)
    shape = {graph.shapes.get(graph[part[-1]].outputs[0], ()) for part in parts}
    (tokens, *rest), output = graph[split].inputs, graph[merged].outputs[0]
    if rest or graph[split].outputs != sources or len(shape) != 1:
        return
    if not _are_windows(graph, shape.pop(), tokens, output, scale, addends):
        return
    fused += [split, *(node for part in parts for node in part), scaled, product]
    node = operator(ATTENTION, DOMAIN, [tokens, scale, *addends], output)
    graph.fuse([*fused, mixing, turned, merged], node)


def _heads(graph: OnnxGraph, name: str, order: list[int]) -> list[int]:
    """The nodes that sort values by heads: a transposition and, before it, a change of shape."""
    turned = graph.maker(name, "Transpose")
    if turned is None or graph[turned].attributes != {"perm": order}:
        return []
    shaped = graph.maker(graph[turned].inputs[0], "Reshape")
    return [] if shaped is None else [turned, shaped]


def _are_windows(
    graph: OnnxGraph, shape: Shape, tokens: str, output: str, scale: str, addends: list[str]
) -> bool:
    """Whether tensors have the shapes that `shape`, (windows, area, heads, width), demands."""
    windows, area, heads, width = shape
    batch, count, channels = graph.shapes[output]
    bias, *masks = addends
    return (
        area % 16 == 0
        and windows * area == batch * count
        and heads * width == channels
        and graph.shapes.get(tokens) == (batch, count, 3 * channels)
        and graph.weights.get(scale) == ()
        and graph.weights.get(bias) == (heads, area, area)
        and all(_gathered(graph, mask) == (windows, 1, area, area) for mask in masks)
    )


def _gathered(graph: OnnxGraph, name: str) -> Shape:
    """The shape of a tensor, which may be rows of a table."""
    index = graph.makers.get(name)
    node = None if index is None else graph.nodes[index]
    if name in graph.shapes or node is None or node.kind != "Gather":
        return graph.shapes.get(name, ())
    table, rows = (graph.weights.get(node.inputs[0], ()), graph.shapes.get(node.inputs[1], ()))
    return (*rows, *table[1:]) if node.attributes.get("axis", [0]) == [0] else ()


def _other(node: Node, name: str) -> str:
    """The other one of two inputs."""
    return node.inputs[node.inputs[0] == name]
