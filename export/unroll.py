"""The unrolled chain, composed at graph level from networks that were traced once."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from lpnsr.export.trace import OPSET
from lpnsr.models.chain import LOGVAR_RANGE, Chain
from lpnsr.models.presets import Preset
from lpnsr.models.schedule import ReverseStep
from lpnsr.models.swin_unet import SwinUNet

IR_VERSION = 10
LATENT = "x_0"
CATEGORY = "category_"
Identity = tuple[str, tuple[int, ...], str]


class GraphBuilder:
    """Collects nodes and initializers; inlines traced networks, whose weights it keeps once."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._calls: dict[str, int] = {}
        self._known: dict[Identity, ir.Value] = {}
        self._weights: dict[tuple[str, str], ir.Value] = {}

    def op(
        self, op_type: str, *inputs: ir.Value, **attributes: ir.convenience.SupportedAttrTypes
    ) -> ir.Value:
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

    def inline(self, stage: str, model: ir.Model, inputs: Sequence[ir.Value]) -> ir.Value:
        """Append a copy of a traced network with one output; its weights are not copied."""
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
        (output,) = model.graph.outputs
        return values[output]

    def _stored(self, name: str, source: ir.Value) -> ir.Value:
        """The initializer with the content of `source`: equal ones are one."""
        key = identity(source.const_value)
        if key not in self._known:
            self.initializers[name] = _initializer(name, source.const_value)
            self._known[key] = self.initializers[name]
        return self._known[key]


def identity(tensor: ir.TensorProtocol) -> Identity:
    """What two tensors have in common when one can stand for the other."""
    digest = hashlib.sha256(tensor.tobytes()).hexdigest()
    return str(tensor.dtype), tuple(tensor.shape.numpy()), digest


def unroll(
    chain: Chain,
    preset: Preset,
    traced: Mapping[str, ir.Model],
    batch: int,
    tile: tuple[int, int],
) -> ir.Model:
    """Compose the traced stages into one static graph of the whole chain.

    The timestep is folded: each step has its own constants for the group norms. The noise
    predictor is not called at the last step, which uses no noise.

    Returns:
        a model with inputs `lr` (B, 3, h, w) and `noise` (K, B, C, h, w) and outputs `sr`
        (B, 3, scale·h, scale·w) and `x_0` (B, C, h, w), all float32, and `category_k` (B, h·w)
        int64 for each time that the auxiliary network sorts its tokens. What comes after `sr` is
        there for verification and can be dropped.
    """
    height, width = tile
    graph = GraphBuilder()
    lr = _float_input("lr", (batch, 3, height, width))
    noise = _float_input("noise", (preset.draws, batch, preset.latent_channels, height, width))

    start = graph.inline("pre_upsampler", traced["pre_upsampler"], [lr])
    y = graph.inline("encoder", traced["encoder"], [start])
    condition, weight = _guidance(graph, chain, traced, lr, y)
    draws = iter([_draw(graph, noise, index) for index in range(preset.draws)])
    x = _shift(graph, (1.0, y), (chain.schedule.start_noise, _weigh(graph, weight, next(draws))))
    for step in chain.schedule.reverse_steps():
        scaled = _shift(graph, (step.input_scale, x))
        x0 = _unet(graph, chain.denoiser, "denoiser", traced, step, [scaled, *condition])
        terms = [(step.state, x), (step.prediction, x0), (step.start, y)]
        if step.noise:
            z = _noise_sample(graph, chain, traced, step, [x, x0, *condition], next(draws))
            terms.append((step.noise, _weigh(graph, weight, z)))
        x = _shift(graph, *terms)

    picture = graph.inline("decoder", traced["decoder"], [x])
    sr = graph.op("Clip", picture, graph.scalar(-1.0), graph.scalar(1.0))
    _name(sr, "sr", (batch, 3, preset.scale * height, preset.scale * width))
    _name(x, LATENT, (batch, preset.latent_channels, height, width))
    categories = [n.outputs[0] for n in graph.nodes if n.op_type == "ArgMax" and _is_auxiliary(n)]
    for number, category in enumerate(categories):
        _name(category, f"{CATEGORY}{number}", (batch, height * width), ir.DataType.INT64)
    return ir.Model(
        ir.Graph(
            [lr, noise],
            [sr, x, *categories],
            nodes=graph.nodes,
            initializers=list(graph.initializers.values()),
            opset_imports={"": OPSET},
            name=preset.name,
        ),
        ir_version=IR_VERSION,
        producer_name="lpnsr-export",
    )


def _draw(graph: GraphBuilder, noise: ir.Value, index: int) -> ir.Value:
    position = graph.constant(f"chain/draw_{index}", np.array(index, np.int64))
    return graph.op("Gather", noise, position, axis=0)


def _name(
    value: ir.Value,
    name: str,
    shape: tuple[int, ...],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> None:
    value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)


def _is_auxiliary(node: ir.Node) -> bool:
    return node.name.startswith("auxiliary_")


def _shift(graph: GraphBuilder, *terms: tuple[float, ir.Value]) -> ir.Value:
    """The sum of values times factors, without operations for factors 0 and 1."""
    scaled = [
        value if factor == 1 else graph.op("Mul", value, graph.scalar(factor))
        for factor, value in terms
        if factor
    ]
    return functools.reduce(functools.partial(graph.op, "Add"), scaled)


def _weigh(graph: GraphBuilder, weight: ir.Value | None, noise: ir.Value) -> ir.Value:
    return noise if weight is None else graph.op("Mul", noise, weight)


def _guidance(
    graph: GraphBuilder,
    chain: Chain,
    traced: Mapping[str, ir.Model],
    lr: ir.Value,
    y: ir.Value,
) -> tuple[list[ir.Value], ir.Value | None]:
    """What conditions the networks, and the weight of the noise; see `Chain.guidance`."""
    if chain.auxiliary is None:
        return [lr], None
    picture = graph.inline("auxiliary", traced["auxiliary"], [lr])
    estimate = graph.inline("encoder", traced["encoder"], [picture])
    least, full = chain.schedule.least_weight, chain.schedule.full_difference
    difference = graph.op("Abs", graph.op("Sub", estimate, y))
    uncertainty = _shift(graph, (0.5 / full, difference))
    uncertainty = graph.op("Min", uncertainty, graph.scalar(1.0))
    weight = _shift(graph, (1.0, graph.scalar(least)), (1 - least, uncertainty))
    return [estimate, y], weight


def _unet(
    graph: GraphBuilder,
    unet: SwinUNet,
    stage: str,
    traced: Mapping[str, ir.Model],
    step: ReverseStep,
    pictures: Sequence[ir.Value],
) -> ir.Value:
    """Call a Swin-UNet with what the timestep contributes as constants."""
    with torch.no_grad():
        modulation = unet.modulation(torch.tensor([step.timestep]))
    constants = [
        graph.constant(f"{stage}/timestep_{step.timestep}/{block}.{part}", value.numpy())
        for block, affine in enumerate(modulation)
        for part, value in zip(("weight", "bias"), affine, strict=True)
    ]
    return graph.inline(stage, traced[stage], [graph.op("Concat", *pictures, axis=1), *constants])


def _noise_sample(
    graph: GraphBuilder,
    chain: Chain,
    traced: Mapping[str, ir.Model],
    step: ReverseStep,
    pictures: Sequence[ir.Value],
    eps: ir.Value,
) -> ir.Value:
    """A sample of the noise predictor's Gaussian; see `Chain.predict_noise`."""
    if chain.noise_predictor is None:
        return eps
    parameters = _unet(graph, chain.noise_predictor, "noise_predictor", traced, step, pictures)
    split = ir.node("Split", [parameters], {"axis": 1, "num_outputs": 2}, num_outputs=2)
    for part, value in zip(("mean", "logvar"), split.outputs, strict=True):
        value.name = f"chain/{part}_{step.timestep}"
    graph.nodes.append(split)
    mean, logvar = split.outputs
    logvar = graph.op("Clip", logvar, *(graph.scalar(bound) for bound in LOGVAR_RANGE))
    deviation = graph.op("Exp", graph.op("Mul", logvar, graph.scalar(0.5)))
    return graph.op("Add", mean, graph.op("Mul", deviation, eps))


def _initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    return ir.Value(
        name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def _float_input(name: str, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
