"""What is known of the values of a static graph, where `onnx_ir` allows for what is not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input of a node.

    Raises:
        ValueError: it is an optional one that was left out.
    """
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"node {node.name} has no input {index}")
    return value


def static_shape(value: ir.Value) -> tuple[int, ...]:
    """The shape of a value.

    Raises:
        ValueError: it is not known, or not fixed.
    """
    if value.shape is None:
        raise ValueError(f"the shape of {value.name} is not known")
    return value.shape.numpy()


def name_of(value: ir.Value) -> str:
    """The name of a value.

    Raises:
        ValueError: it has none.
    """
    if value.name is None:
        raise ValueError("a value has no name")
    return value.name


def tensor(value: ir.Value) -> ir.TensorProtocol:
    """The tensor of a constant.

    Raises:
        ValueError: the value is computed.
    """
    if value.const_value is None:
        raise ValueError(f"{value.name} is not constant")
    return value.const_value


def content(value: ir.Value) -> np.ndarray:
    """The content of a constant.

    Raises:
        ValueError: the value is computed.
    """
    return tensor(value).numpy()
