"""The unrolled chain, composed at graph level from networks that were traced once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from lpnsr.export.graph.builder import GraphBuilder, float_input
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
        a model with inputs `lr` (B, 3, h, w) and `noise` (K, B, C, h, w) and the output `sr`
        (B, 3, scale·h, scale·w), all float32. Inside there are `x_0` (B, C, h, w), `category_k`
        (B, h·w) int64 for each time that the auxiliary network sorts its tokens, and what
        `boundaries` tells; `show` makes the former outputs as well, for verification.
    """
    height, width = tile
    graph = GraphBuilder()
    lr = float_input("lr", (batch, 3, height, width))
    noise = float_input("noise", (preset.draws, batch, preset.latent_channels, height, width))

    start = graph.inline("pre_upsampler", traced["pre_upsampler"], [lr])
    y = graph.inline("encoder", traced["encoder"], [start])
    condition, weight = guidance(graph, chain, traced, lr, y)
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

    x = graph.op("Identity", x) if x is x0 else x  # each has a name of its own
    name_value(x, LATENT, (batch, preset.latent_channels, height, width))
    sr = decode(graph, traced, x)
    name_value(sr, "sr", (batch, 3, preset.scale * height, preset.scale * width))
    name_categories(graph, batch, tile)
    return graph.model(preset.name, [lr, noise], [sr])


def show(model: ir.Model) -> None:
    """Make `x_0` and every `category_k` that is in a graph an output of it."""
    values = {value.name: value for node in model.graph for value in node.outputs}
    latents = [value for name, value in values.items() if name == LATENT]
    categories = [value for name, value in values.items() if name.startswith(CATEGORY)]
    model.graph.outputs.extend([*latents, *categories])


def boundaries(stages: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Stage -> names of what its first call takes and gives, in the graph of `unroll`."""
    latent = QUANTIZED if "quantizer" in stages else LATENT
    inputs = {
        "pre_upsampler": "lr",
        "auxiliary": "lr",
        "encoder": "pre_upsampler_1",
        "denoiser": "denoiser_input",
        "noise_predictor": "noise_predictor_input",
        "quantizer": LATENT,
        "decoder": latent,
    }
    outputs = {"quantizer": QUANTIZED}
    return {stage: (inputs[stage], outputs.get(stage, f"{stage}_1")) for stage in stages}


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


def name_value(
    value: ir.Value,
    name: str,
    shape: tuple[int, ...],
    dtype: ir.DataType = ir.DataType.FLOAT,
) -> None:
    """Say how a value is called, and what it is."""
    value.name, value.shape, value.type = name, ir.Shape(shape), ir.TensorType(dtype)


def name_categories(graph: GraphBuilder, batch: int, tile: tuple[int, int]) -> None:
    """Name what the auxiliary network sorts by `category_0` and so on."""
    sorts = [n for n in graph.nodes if n.op_type == "ArgMax" and n.name.startswith("auxiliary_")]
    shape = batch, tile[0] * tile[1]
    for number, node in enumerate(sorts):
        name_value(node.outputs[0], f"{CATEGORY}{number}", shape, ir.DataType.INT64)


def decode(graph: GraphBuilder, traced: Mapping[str, ir.Model], latent: ir.Value) -> ir.Value:
    """The picture, limited to [-1, 1], of a latent."""
    if "quantizer" in traced:
        latent = graph.inline("quantizer", traced["quantizer"], [latent])
        latent.name = QUANTIZED
    picture = graph.inline("decoder", traced["decoder"], [latent])
    return graph.op("Clip", picture, graph.scalar(-1.0), graph.scalar(1.0))


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


def guidance(
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
    joined = graph.op("Concat", *pictures, axis=1)
    if graph.calls(stage) == 0:
        name_value(joined, f"{stage}_input", traced[stage].graph.inputs[0].shape.numpy())
    return graph.inline(stage, traced[stage], [joined, *constants])


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
    mean, logvar = distribution(graph, parameters)
    deviation = graph.op("Exp", graph.op("Mul", logvar, graph.scalar(0.5)))
    return graph.op("Add", mean, graph.op("Mul", deviation, eps))


def distribution(graph: GraphBuilder, parameters: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Mean and log-variance, limited, of what the noise predictor gives."""
    split = ir.node("Split", [parameters], {"axis": 1, "num_outputs": 2}, num_outputs=2)
    for part, value in zip(("mean", "logvar"), split.outputs, strict=True):
        value.name = f"{parameters.name}/{part}"
    graph.nodes.append(split)
    mean, logvar = split.outputs
    return mean, graph.op("Clip", logvar, *(graph.scalar(bound) for bound in LOGVAR_RANGE))
