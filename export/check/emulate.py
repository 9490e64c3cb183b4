"""A graph of narrow types as a graph of float32 that rounds like it.

ONNX Runtime has no bfloat16 kernels for the CPU. For float16 it widens all operations and drops the
rounding between them, so that what it computes says nothing of an engine that does compute in
float16. Here the rounding is written out: each operation that gives a narrow value gives a float32
one, rounded to the narrow type's values. Sums inside an operation are float32, as in engines.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
FLOAT = ir.DataType.FLOAT
PRODUCTS = ("Conv", "Gemm", "MatMul")


def emulate(model: ir.Model) -> ir.Model:
    """A copy that computes in float32 and rounds to the narrow types of `model`.

    Weights stay narrow, in the same external file.
    """
    model = model.clone()
    graph = model.graph
    produced = [(node, output) for node in graph for output in node.outputs]
    for weight in list(graph.initializers.values()):
        if weight.dtype in NARROW:
            users = list(weight.uses())
            wide = _cast(weight, FLOAT)
            graph.insert_before(graph[0], [wide])
            _redirect(users, wide)
    for node, output in produced:
        if output.dtype in NARROW:
            users, narrow, added = list(output.uses()), output, []
            if node.op_type != "Cast":
                added.append(_cast(output, output.dtype))
                output.type = ir.TensorType(FLOAT)
                narrow = added[0].outputs[0]
            added.append(_cast(narrow, FLOAT))
            graph.insert_after(node, added)
            _redirect(users, added[-1])
    return model


def emulate_bf16(model: ir.Model) -> ir.Model:
    """A copy of a float32 graph that multiplies as an engine does that reduces it to bfloat16.

    Factors, weights among them, and results of products are rounded; sums stay in float32.
    """
    model = model.clone()
    rounded: dict[ir.Value, ir.Node] = {}
    for node in list(model.graph):
        if node.op_type not in PRODUCTS:
            continue
        for index, value in enumerate(node.inputs[:2]):
            assert value is not None
            if value not in rounded:
                made = _rounded(value)
                model.graph.insert_before(node, made)
                rounded[value] = made[-1]
            node.replace_input_with(index, rounded[value].outputs[0])
        users = list(node.outputs[0].uses())
        made = _rounded(node.outputs[0])
        model.graph.insert_after(node, made)
        rounded[node.outputs[0]] = made[-1]
        _redirect(users, made[-1])
    return model


def _rounded(value: ir.Value) -> list[ir.Node]:
    narrow = _cast(value, ir.DataType.BFLOAT16)
    return [narrow, _cast(narrow.outputs[0], FLOAT)]


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    name = f"{value.name}/{dtype.name}"
    node = ir.node("Cast", [value], {"to": dtype}, name=name)
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
    return node


def _redirect(users: Iterable[tuple[ir.Node, int]], node: ir.Node) -> None:
    for user, index in users:
        user.replace_input_with(index, node.outputs[0])
