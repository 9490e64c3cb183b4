"""The unrolled chain, composed at graph level from networks that were traced once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from lpnsr.export.graph import GraphBuilder, float_input
from lpnsr.models.chain import LOGVAR_RANGE, Chain
from lpnsr.models.presets import Preset
from lpnsr.models.schedule import ReverseStep
from lpnsr.models.swin_unet import SwinUNet

LATENT = "x_0"
QUANTIZED = "quantized"
CATEGORY = "category_"


def unroll(
    chain: Chain,
    preset: Preset,
    traced: Mapping[str, ir.Model],
    batch: int,
    tile: tuple[int, int],
) -> ir.Model:
    """Compose the traced stages into one static graph of the whole chain.

    The timestep is folded: each step has its own constants for the group norms. The noise
    predictor is only called at steps that add predicted noise, and so never at the last.

    Returns:
        a model with inputs `lr` (B, 3, h, w) and `noise` (K, B, C, h, w) and outputs `sr`
        (B, 3, scale·h, scale·w) and `x_0` (B, C, h, w), all float32, and `category_k` (B, h·w)
        int64 for each time that the auxiliary network sorts its tokens. What comes after `sr` is
        there for verification and can be dropped.
    """
    height, width = tile
    graph = GraphBuilder()
    lr = float_input("lr", (batch, 3, height, width))
    noise = float_input("noise", (preset.draws, batch, preset.latent_channels, height, width))

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

    latent = x
    if "quantizer" in traced:
        latent = graph.inline("quantizer", traced["quantizer"], [x])
        latent.name = QUANTIZED
    picture = graph.inline("decoder", traced["decoder"], [latent])
    sr = graph.op("Clip", picture, graph.scalar(-1.0), graph.scalar(1.0))
    _name(sr, "sr", (batch, 3, preset.scale * height, preset.scale * width))
    _name(x, LATENT, (batch, preset.latent_channels, height, width))
    categories = [n.outputs[0] for n in graph.nodes if n.op_type == "ArgMax" and _is_auxiliary(n)]
    for number, category in enumerate(categories):
        _name(category, f"{CATEGORY}{number}", (batch, height * width), ir.DataType.INT64)
    return graph.model(preset.name, [lr, noise], [sr, x, *categories])


def single(chain: Chain, preset: Preset, traced: ir.Model, stage: str) -> ir.Model:
    """One traced stage as a graph of its own, at the first step of the reverse chain.

    Returns:
        a model with one input `x` and one output, float32; the denoiser and the noise predictor
        take their concatenated pictures.
    """
    graph = GraphBuilder()
    x = float_input("x", tuple(traced.graph.inputs[0].shape.numpy()))
    constants = []
    if stage in ("denoiser", "noise_predictor"):
        step = chain.schedule.reverse_steps()[0]
        constants = _timestep(graph, getattr(chain, stage), stage, step)
    output = graph.inline(stage, traced, [x, *constants])
    return graph.model(f"{preset.name}/{stage}", [x], [output])


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
    constants = _timestep(graph, unet, stage, step)
    return graph.inline(stage, traced[stage], [graph.op("Concat", *pictures, axis=1), *constants])


def _timestep(graph: GraphBuilder, unet: SwinUNet, stage: str, step: ReverseStep) -> list[ir.Value]:
    """Weights and biases that the step's timestep puts into the group norms."""
    with torch.no_grad():
        modulation = unet.modulation(torch.tensor([step.timestep]))
    return [
        graph.constant(f"{stage}/timestep_{step.timestep}/{block}.{part}", value.numpy())
        for block, affine in enumerate(modulation)
        for part, value in zip(("weight", "bias"), affine, strict=True)
    ]


def _noise_sample(
    graph: GraphBuilder,
    chain: Chain,
    traced: Mapping[str, ir.Model],
    step: ReverseStep,
    pictures: Sequence[ir.Value],
    eps: ir.Value,
) -> ir.Value:
    """A sample of the noise predictor's Gaussian; see `Chain.predict_noise`."""
    if chain.noise_predictor is None or not step.predicted:
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
