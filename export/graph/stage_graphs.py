"""The staged chain: one graph for each network, which `lpnsr.runtime.backends.staged` drives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from lpnsr.export.graph import unroll
from lpnsr.export.graph.builder import GraphBuilder, float_input
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset
from lpnsr.models.schedule import ReverseStep
from lpnsr.models.swin_unet import SwinUNet
from lpnsr.runtime.bundle import Stage, StepConstants

Compose = Callable[..., Sequence[ir.Value]]


def stage_graphs(
    chain: Chain,
    preset: Preset,
    traced: Mapping[str, ir.Model],
    batch: int,
    tile: tuple[int, int],
    prefix: str,
) -> dict[Stage, ir.Model]:
    """A graph for each network, from the traces that `unroll.unroll` takes.

    The auxiliary network's takes in the encoder, the decoder's the search for codes. What the
    timestep contributes is a table in the graph, from which the number of the step takes a row.

    Args:
        chain: the networks.
        preset: what they are.
        traced: stage -> its trace.
        batch: tiles at once.
        tile: (height, width) of the input.
        prefix: of the file names.

    Returns:
        stage -> its model; inputs and outputs are those of `lpnsr.runtime.backends.staged`.
    """
    height, width = tile
    latent = (batch, preset.latent_channels, height, width)
    large = (batch, 3, preset.scale * height, preset.scale * width)
    shapes = {"lr": (batch, 3, height, width), "picture": large, "sr": large}
    models = {}
    for name, (takes, gives, compose) in _stages(chain, traced).items():
        graph = GraphBuilder()
        inputs = [
            _step_input() if value == "step" else float_input(value, shapes.get(value, latent))
            for value in takes
        ]
        outputs = compose(graph, *inputs)
        for value, output in zip(gives, outputs, strict=True):
            unroll.name_value(output, value, shapes.get(value, latent))
        unroll.name_categories(graph, batch, tile)
        stage = Stage(name, f"{prefix}_{name}.onnx", takes, gives)
        models[stage] = graph.model(f"{preset.name}/{name}", inputs, outputs)
    return models


def boundaries(stages: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Stage -> names of what a call takes and gives, in its graph; see `unroll.boundaries`."""
    own = {
        "pre_upsampler_1": "picture",
        "encoder_1": "y",
        "denoiser_1": "x0",
        unroll.LATENT: "state",
    }
    return {
        stage: (own.get(source, source), own.get(result, result))
        for stage, (source, result) in unroll.boundaries(stages).items()
    }


def step_constants(chain: Chain) -> tuple[StepConstants, ...]:
    """The update that starts the chain, then one for each of its steps."""
    steps = chain.schedule.reverse_steps()
    scales = [*(step.input_scale for step in steps), 1.0]
    start = StepConstants(1.0, 0.0, 0.0, chain.schedule.start_noise, scales[0], False)
    updates = (
        StepConstants(
            state=step.state,
            prediction=step.prediction,
            start=step.start,
            noise=step.noise,
            next_scale=scale,
            predicted=bool(chain.noise_predictor and step.noise and step.predicted),
        )
        for step, scale in zip(steps, scales[1:], strict=True)
    )
    return (start, *updates)


def _stages(
    chain: Chain, traced: Mapping[str, ir.Model]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...], Compose]]:
    """Stage -> names of its inputs, names of its outputs, and what makes these of those."""
    steps = chain.schedule.reverse_steps()
    condition = ("lr",) if chain.auxiliary is None else ("estimate", "y")

    def network(stage: str) -> Compose:
        return lambda graph, x: [graph.inline(stage, traced[stage], [x])]

    def auxiliary(graph: GraphBuilder, lr: ir.Value, y: ir.Value) -> Sequence[ir.Value]:
        (estimate, _), weight = unroll.guidance(graph, chain, traced, lr, y)
        return [estimate, weight]

    def denoiser(graph: GraphBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:
        return [_unet(graph, chain.denoiser, "denoiser", traced, steps, inputs)]

    def noise_predictor(graph: GraphBuilder, *inputs: ir.Value) -> Sequence[ir.Value]:
        network = chain.noise_predictor
        parameters = _unet(graph, network, "noise_predictor", traced, steps, inputs)
        return unroll.distribution(graph, parameters)

    def decoder(graph: GraphBuilder, state: ir.Value) -> Sequence[ir.Value]:
        return [unroll.decode(graph, traced, state)]

    stages = {
        "pre_upsampler": (("lr",), ("picture",), network("pre_upsampler")),
        "encoder": (("picture",), ("y",), network("encoder")),
        "auxiliary": (("lr", "y"), ("estimate", "weight"), auxiliary),
        "denoiser": (("scaled", *condition, "step"), ("x0",), denoiser),
        "noise_predictor": (
            ("state", "x0", *condition, "step"),
            ("mean", "logvar"),
            noise_predictor,
        ),
        "decoder": (("state",), ("sr",), decoder),
    }
    return {stage: parts for stage, parts in stages.items() if stage in traced}


def _unet(
    graph: GraphBuilder,
    unet: SwinUNet,
    stage: str,
    traced: Mapping[str, ir.Model],
    steps: Sequence[ReverseStep],
    inputs: Sequence[ir.Value],
) -> ir.Value:
    """Call a Swin-UNet at the step whose number is the last of the inputs."""
    *pictures, number = inputs
    joined = graph.op("Concat", *pictures, axis=1)
    unroll.name_value(joined, f"{stage}_input", traced[stage].graph.inputs[0].shape.numpy())
    constants = _timestep(graph, unet, stage, steps, number)
    return graph.inline(stage, traced[stage], [joined, *constants])


def _timestep(
    graph: GraphBuilder, unet: SwinUNet, stage: str, steps: Sequence[ReverseStep], number: ir.Value
) -> list[ir.Value]:
    """Weights and biases of the group norms at one of the steps."""
    with torch.no_grad():
        affines = [unet.modulation(torch.tensor([step.timestep])) for step in steps]
    rows = [[part.flatten() for affine in each for part in affine] for each in affines]
    table = graph.constant(f"{stage}/timesteps", torch.stack([*map(torch.cat, rows)]).numpy())
    sizes = np.array([len(part) for part in rows[0]], np.int64)
    row = graph.op("Gather", table, number, axis=0)
    split = ir.node(
        "Split",
        [row, graph.constant(f"{stage}/sizes", sizes)],
        {"axis": 1},
        num_outputs=len(sizes),
        name=f"chain/{stage}_timestep",
    )
    graph.nodes.append(split)
    for index, value in enumerate(split.outputs):
        value.name = f"{split.name}_{index}"
    return [
        graph.op("Reshape", value, graph.constant(f"shape_{size}", np.array([1, size, 1, 1])))
        for value, size in zip(split.outputs, sizes, strict=True)
    ]


def _step_input() -> ir.Value:
    return ir.Value(name="step", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
