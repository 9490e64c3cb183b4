"""Indices of gathers in 32 bits instead of 64: half the bytes of the tables that sort windows.

The built-in bundle, with its three tile sizes: 12.1 -> 11.0 MB.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lpnsr.export.graph.values import content


def narrow_indices(model: ir.Model) -> int:
    """Narrow int64 tables that are nothing but indices of Gathers; returns how many there were."""
    found = [value for value in model.graph.initializers.values() if _is_index(value)]
    for value in found:
        narrow = content(value).astype(np.int32)
        value.const_value = ir.tensor(narrow, name=value.name)
        value.dtype = ir.DataType.INT32
    return len(found)


def _is_index(value: ir.Value) -> bool:
    uses = value.uses()
    if value.dtype != ir.DataType.INT64 or not uses or value.is_graph_output():
        return False
    return all(node.op_type == "Gather" and place == 1 for node, place in uses)
