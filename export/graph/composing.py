"""Stages that were traced once, composed at graph level."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence

import onnx_ir as ir
import torch
from torch.utils._pytree import tree_leaves

from lpnsr.export.graph.builder import GraphBuilder, float_input
from lpnsr.export.graph.values import static_shape
from lpnsr.kernels.recurrence import Step
from lpnsr.models.chain import Chain
from lpnsr.models.families import Stage
from lpnsr.models.presets import Preset

CATEGORY = "category_"


class Composer:
    """Calls stages in a graph that grows.

    The first value of each name (see `lpnsr.kernels.recurrence`) is called so in the graph, which
    is how verification finds it; what networks sort tokens by is called `category_0` and so on.

    Args:
        chain: the networks.
        preset: what they are.
        traced: stage -> its trace.
        batch: tiles at once.
        tile: (height, width) of the input.

    Attributes:
        graph: what was composed.
        values: the values by name.
    """

    def __init__(
        self,
        chain: Chain,
        preset: Preset,
        traced: Mapping[str, ir.Model],
        batch: int,
        tile: tuple[int, int],
    ) -> None:
        self.chain, self.graph = chain, GraphBuilder()
        self.values: dict[str, ir.Value] = {}
        self._shape = functools.partial(preset.shape, batch=batch, tile=tile)
        self._traced, self._categories = traced, 0
        self._named: set[str] = set()

    def inputs(self, names: Iterable[str]) -> list[ir.Value]:
        """Let these values be inputs of the graph."""
        for name in names:
            self.values[name] = float_input(name, self._shape(name))
            self._named.add(name)
        return [self.values[name] for name in names]

    def compose(self, stage: Stage, told: Sequence[ir.Value]) -> None:
        """Append a call of a stage.

        Args:
            stage: which.
            told: the values that the timestep becomes.
        """
        inputs = [self.values[name] for name in stage.inputs]
        found = self.graph.inline(stage.name, self._traced[stage.name], [*inputs, *told])
        outputs, categories = found[: len(stage.outputs)], found[len(stage.outputs) :]
        for name, value in zip(stage.outputs, outputs, strict=True):
            self.values[name] = self.name(name, value)
        for category in categories:
            category.name = f"{CATEGORY}{self._categories}"
            self._categories += 1

    def name(self, name: str, value: ir.Value) -> ir.Value:
        """The value, called so if it is the first of this name."""
        if name in self._named:
            return value
        if value.name in self._named or value.producer() is None:
            value = self.graph.op("Identity", value)  # each has a name of its own
        self._named.add(name)
        value.name, value.shape = name, ir.Shape(self._shape(name))
        value.type = ir.TensorType(ir.DataType.FLOAT)
        return value


def constants(graph: GraphBuilder, chain: Chain, stage: Stage, step: Step) -> list[ir.Value]:
    """The values that the step's timestep becomes, as constants; none if it is not folded."""
    return [
        graph.constant(f"{stage.name}/timestep_{step.timestep}/{index}", value.numpy())
        for index, value in enumerate(told(chain, stage, step))
    ]


def told(chain: Chain, stage: Stage, step: Step) -> list[torch.Tensor]:
    """The values that a timestep becomes for a stage, in the order of its trace's inputs."""
    with torch.no_grad():
        return tree_leaves(chain.told(stage, step))


def single(chain: Chain, preset: Preset, traced: ir.Model, name: str) -> ir.Model:
    """One traced stage as a graph of its own, at the first step of the reverse chain.

    Returns:
        a model with the stage's inputs and outputs, float32.
    """
    stage, graph = chain.stage(name), GraphBuilder()
    shapes = [static_shape(value) for value in traced.graph.inputs]
    inputs = [float_input(*each) for each in zip(stage.inputs, shapes, strict=False)]
    told = constants(graph, chain, stage, chain.updates()[0])
    outputs = graph.inline(name, traced, [*inputs, *told])[: len(stage.outputs)]
    for value, output in zip(stage.outputs, outputs, strict=True):
        output.name = value
    return graph.model(f"{preset.name}/{name}", inputs, outputs)
