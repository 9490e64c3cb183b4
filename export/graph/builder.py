"""Builds an ONNX graph from operations and from networks that were traced before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lpnsr.export.graph.trace import BFLOAT16_OPSET, OPSET
from lpnsr.export.graph.values import tensor

IR_VERSION = 10
TABLE_BYTES = 1 << 16
Identity = tuple[str, tuple[int, ...], str]


class GraphBuilder:
    """Collects nodes and initializers; inlines traced networks, whose weights it keeps once."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._calls: dict[str, int] = {}
        self._known: dict[Identity, ir.Value] = {}
        self._weights: dict[tuple[str, str], ir.Value] = {}

    def op(self, op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
        """Append a node with one output."""
        number = self._calls[op_type] = self._calls.get(op_type, 0) + 1
        name = f"chain/{op_type}_{number}"
        node = ir.node(op_type, inputs, attributes, name=name)
        node.outputs[0].name = name
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: np.ndarray) -> ir.Value:
        """The initializer called `name`, made when it is first asked for."""
        if name not in self.initializers:
            self.initializers[name] = _initializer(name, ir.tensor(array, name=name))
        return self.initializers[name]

    def scalar(self, value: float) -> ir.Value:
        """A float32 scalar."""
        return self.constant(f"chain/{value!r}", np.array(value, np.float32))

    def inline(self, stage: str, model: ir.Model, inputs: Sequence[ir.Value]) -> list[ir.Value]:
        """Append a copy of a traced network; its weights are not copied.

        Returns:
            its outputs.
        """
        number = self._calls[stage] = self._calls.get(stage, 0) + 1
        values = dict(zip(model.graph.inputs, inputs, strict=True))
        for name, initializer in model.graph.initializers.items():
            if (stage, name) not in self._weights:
                self._weights[stage, name] = self._stored(f"{stage}/{name}", initializer)
            values[initializer] = self._weights[stage, name]
        for node in model.graph:
            copy = ir.Node(
                node.domain,
                node.op_type,
                [None if value is None else values[value] for value in node.inputs],
                list(node.attributes.values()),
                num_outputs=len(node.outputs),
                name=f"{stage}_{number}/{node.name}",
            )
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name, new.shape, new.type = f"{stage}_{number}/{old.name}", old.shape, old.type
                values[old] = new
            self.nodes.append(copy)
        return [values[output] for output in model.graph.outputs]

    def model(self, name: str, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
        """The model of all that was collected and is used."""
        types = {value.dtype for value in self.initializers.values()}
        opset = BFLOAT16_OPSET if ir.DataType.BFLOAT16 in types else OPSET
        graph = ir.Graph(
            inputs,
            outputs,
            nodes=self.nodes,
            initializers=[value for value in self.initializers.values() if value.uses()],
            opset_imports={"": opset},
            name=name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="lpnsr-export")

    def _stored(self, name: str, source: ir.Value) -> ir.Value:
        """A value with the content of `source`: equal ones are one."""
        stored = tensor(source)
        key = identity(stored)
        if key not in self._known:
            value = self._spread(name, stored.numpy())
            if value is None:
                value = self.initializers[name] = _initializer(name, stored)
            self._known[key] = value
        return self._known[key]

    def _spread(self, name: str, table: np.ndarray) -> ir.Value | None:
        """A table that repeats itself along its first axis, stored without repetition.

        Window masks are such: all windows but those at two borders have the same. Engines fold the
        Gather when they load the graph. None for any other table.
        """
        if table.nbytes < TABLE_BYTES or table.ndim == 0:
            return None
        first: dict[bytes, int] = {}
        index = [first.setdefault(part.tobytes(), len(first)) for part in table]
        if 2 * len(first) > len(table):
            return None
        parts = table[[index.index(number) for number in range(len(first))]]
        return self.op(
            "Gather",
            self.constant(f"{name}.parts", parts),
            self.constant(f"{name}.index", np.array(index, np.int64)),
            axis=0,
        )


def identity(content: ir.TensorProtocol) -> Identity:
    """What two tensors have in common when one can stand for the other."""
    digest = hashlib.sha256(content.tobytes()).hexdigest()
    return str(content.dtype), tuple(content.shape.numpy()), digest


def float_input(name: str, shape: tuple[int, ...]) -> ir.Value:
    """An input of a graph, float32."""
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))


def _initializer(name: str, content: ir.TensorProtocol) -> ir.Value:
    return ir.Value(
        name=name,
        shape=ir.Shape(content.shape.numpy()),
        type=ir.TensorType(content.dtype),
        const_value=content,
    )
