"""One graph for each stage: those of a staged chain, and those that are run for a whole picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from lpnsr.export.graph.builder import GraphBuilder
from lpnsr.export.graph.composing import Composer, told
from lpnsr.export.graph.values import name_of
from lpnsr.models import families
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset
from lpnsr.runtime.manifest import StageGraph


def stage_graphs(
    chain: Chain,
    preset: Preset,
    traced: Mapping[str, ir.Model],
    batch: int,
    tile: tuple[int, int],
    prefix: str,
) -> dict[StageGraph, ir.Model]:
    """A graph for each stage, from the traces that `unroll.unroll` takes.

    Stages that share a graph (`lpnsr.models.families.Stage.graph`) are one in the bundle. The
    values of a folded timestep are a table in the graph, of which the step's number takes a row.

    Args:
        chain: the networks.
        preset: what they are.
        traced: stage -> its trace; the others get no graph.
        batch: tiles at once.
        tile: (height, width) of the input.
        prefix: of the file names.

    Returns:
        what the manifest says of each -> its model.
    """
    models = {}
    for name, group in _groups([stage for stage in chain.stages if stage.name in traced]).items():
        composer = Composer(chain, preset, traced, batch, tile)
        made = {value for stage in group for value in stage.outputs}
        takes = [value for stage in group for value in stage.inputs if value not in made]
        inputs = composer.inputs(dict.fromkeys(takes))
        number = []
        if any(stage.folded for stage in group):
            number = [_step_input()]
        for stage in group:
            composer.compose(stage, _told(composer.graph, chain, stage, number))
        gives, phase = group[-1].outputs, group[-1].phase
        inputs += number
        names = tuple(map(name_of, inputs))
        packed = StageGraph(name, f"{prefix}_{name}.onnx", names, gives, phase)
        outputs = [composer.values[value] for value in gives]
        models[packed] = composer.graph.model(f"{preset.name}/{name}", inputs, outputs)
    return models


def _groups(stages: Sequence[families.Stage]) -> dict[str, list[families.Stage]]:
    """Name of a graph -> the stages in it."""
    groups: dict[str, list[families.Stage]] = {}
    for stage in stages:
        groups.setdefault(stage.graph or stage.name, []).append(stage)
    return groups


def _told(
    graph: GraphBuilder, chain: Chain, stage: families.Stage, number: Sequence[ir.Value]
) -> list[ir.Value]:
    """The values that the timestep becomes at this step; none if it is not folded."""
    if not stage.folded:
        return []
    parts = [told(chain, stage, step) for step in chain.updates()[1:]]
    rows = torch.stack([torch.cat([part.flatten() for part in each]) for each in parts])
    table = graph.constant(f"{stage.name}/timesteps", rows.numpy())
    sizes = np.array([part.numel() for part in parts[0]], np.int64)
    row = graph.op("Gather", table, *number, axis=0)
    split = ir.node(
        "Split",
        [row, graph.constant(f"{stage.name}/sizes", sizes)],
        {"axis": 1},
        num_outputs=len(sizes),
        name=f"chain/{stage.name}_timestep",
    )
    graph.nodes.append(split)
    for index, value in enumerate(split.outputs):
        value.name = f"{split.name}_{index}"
    shapes = [tuple(part.shape) for part in parts[0]]
    return [
        graph.op("Reshape", value, graph.constant(f"shape_{shape}", np.array(shape, np.int64)))
        for value, shape in zip(split.outputs, shapes, strict=True)
    ]


def _step_input() -> ir.Value:
    return ir.Value(name="step", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
