"""What a network costs: multiply-accumulates and parameters, of eager networks and of graphs."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from pathlib import Path

import onnx
import torch
from onnx import NodeProto, shape_inference
from torch.utils.flop_counter import FlopCounterMode

from lpnsr.kernels.operators import ATTENTION, CONV, UPSAMPLE
from lpnsr.kernels.recurrence import DENOISE, NOISE
from lpnsr.models.presets import Preset
from lpnsr.runtime.backends.winograd_graph import with_winograd

Shapes = dict[str, tuple[int, ...]]


def eager(call: Callable[[], object]) -> int:
    """Multiply-accumulates of a call of eager PyTorch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops() // 2


def graph(file: Path, winograd: bool = False) -> tuple[int, int]:
    """Multiply-accumulates of an ONNX graph of static shape, and its floating-point constants.

    With `winograd`, of what the backend with Winograd convolutions makes of it; what transforms
    their tiles is not counted.

    The constants are the trained parameters and the tables that the export has computed, such as
    what a timestep puts into group norms; each is stored once, however often it is used.
    """
    model = shape_inference.infer_shapes(onnx.load(file, load_external_data=False))
    nodes = model.graph.node
    if winograd:
        nodes = onnx.load_from_string(with_winograd(file.read_bytes())).graph.node
    shapes: Shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    floating = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    constants = sum(prod(t.dims) for t in model.graph.initializer if t.data_type in floating)
    return sum(_macs(node, shapes) for node in nodes), constants


def _macs(node: NodeProto, shapes: Shapes) -> int:
    """Output values times what is summed up for each."""
    if node.op_type == "Conv":
        return prod(shapes[node.output[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in (CONV, UPSAMPLE):
        # For a tile's 4x4 values 36 products; 25 in each of four phases.
        batch, depth, height, width = shapes[node.input[0]]
        tiles, channels = batch * -(-height // 4) * -(-width // 4), shapes[node.output[0]][1]
        return (36 if node.op_type == CONV else 4 * 25) * tiles * channels * depth
    if node.op_type == ATTENTION:  # scores, and what they mix
        return 2 * prod(shapes[node.output[0]]) * shapes[node.input[2]][-1]
    if node.op_type == "ConvTranspose":
        return prod(shapes[node.input[0]]) * prod(shapes[node.input[1]][1:])
    if node.op_type in ("MatMul", "Gemm"):
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        summed = shapes[node.input[0]][0 if transposed else -1]
        return prod(shapes[node.output[0]]) * summed
    return 0


def calls_of(preset: Preset) -> dict[str, int]:
    """Stage -> how often the chain calls it."""
    steps = preset.schedule.reverse_steps()
    often = {DENOISE: len(steps), NOISE: sum(step.predicted for step in steps)}
    return {stage.name: often.get(stage.phase, 1) for stage in preset.stages}
