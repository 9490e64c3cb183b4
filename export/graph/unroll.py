"""The unrolled chain, composed at graph level from networks that were traced once."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from lpnsr.export.graph.builder import GraphBuilder
from lpnsr.export.graph.composing import CATEGORY, Composer, constants
from lpnsr.export.graph.values import name_of
from lpnsr.kernels.recurrence import END, PICTURE, Step, drive
from lpnsr.models.chain import Chain
from lpnsr.models.families import Stage
from lpnsr.models.presets import Preset

LATENT = "x_0"
"""The state at the end of the chain, in the graph of `unroll`."""


def unroll(
    chain: Chain,
    preset: Preset,
    traced: Mapping[str, ir.Model],
    batch: int,
    tile: tuple[int, int],
) -> ir.Model:
    """Compose the traced stages into one static graph of the whole chain.

    A folded timestep is a constant of each step. The noise predictor is only called at steps that
    add predicted noise, and so never at the last.

    Returns:
        a model with inputs `lr` (B, 3, h, w), `noise` (K, B, C, h', w'), unless the chain draws
        none, and what stages give that are called once for a picture, and the output `sr`
        (B, 3, scale·h, scale·w), all float32. Inside, the first value of each name has this name
        (see `ends`), the last state is `x_0`, and there is a `category_k` (B, n) int64 for each
        time that a network sorts tokens; `show` makes outputs of what verification looks at.
    """
    composer = Composer(chain, preset, traced, batch, tile)
    inputs = composer.inputs(graph_inputs(preset))
    executor = _Unrolling(composer)
    drive([stage for stage in chain.stages if stage.phase != PICTURE], executor.updates, executor)
    return composer.graph.model(preset.name, inputs, [composer.values["sr"]])


def graph_inputs(preset: Preset) -> list[str]:
    """Names of the inputs of the whole chain's graph."""
    noise = ["noise"] if preset.draws else []
    stages = (stage for stage in preset.stages if stage.phase == PICTURE)
    return ["lr", *noise, *(name for stage in stages for name in stage.outputs)]


def show(model: ir.Model, chain: Chain) -> None:
    """Make outputs of `x_0`, of every `category_k` and of the codes, where a graph has them."""
    values = {name_of(value): value for node in model.graph for value in node.outputs}
    decided = [name for stage in (chain.codebook,) if stage for name in stage.outputs]
    inner = [values[name] for name in (LATENT, *decided) if name in values]
    categories = [value for name, value in values.items() if name.startswith(CATEGORY)]
    shown = [value for value in (*inner, *categories) if not value.is_graph_output()]
    model.graph.outputs.extend(shown)


def ends(stage: Stage) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of what the first call of a stage takes and gives, in the graph of `unroll`."""
    own = {"state": LATENT} if stage.phase == END else {}
    return tuple(own.get(name, name) for name in stage.inputs), stage.outputs


def precise_ends(preset: Preset) -> tuple[tuple[str, str], ...]:
    """Where the graph of `unroll` may be cut: around stages that must stay float32.

    These are the precise ones after the chain, through which all that follows passes.
    """
    stages = [stage for stage in preset.stages if stage.precise and stage.phase == END]
    found = (ends(stage) for stage in stages)
    return tuple((takes[0], gives[0]) for takes, gives in found)


class _Unrolling:
    """An executor of `drive` whose values are those of a graph."""

    def __init__(self, composer: Composer) -> None:
        self.updates = composer.chain.updates()
        self._composer, self._graph = composer, composer.graph
        self._draw = 0

    def call(self, stage: Stage, step: Step, number: int) -> None:
        """Append a copy of the stage's trace."""
        told = constants(self._graph, self._composer.chain, stage, step)
        self._composer.compose(stage, told)

    def update(self, step: Step, state: str, terms: Sequence[str]) -> None:
        """Append what makes the new state."""
        graph, values = self._graph, self._composer.values
        factors = [(step.state, state), (step.prediction, "x0"), (step.start, "y")]
        summed = [(factor, values[name]) for factor, name in factors if factor]
        if step.noise:
            summed.append((step.noise, self._noise({name: values[name] for name in terms})))
        x, last = _sum(graph, summed), step is self.updates[-1]
        values["state"] = self._composer.name(LATENT if last else "state", x)
        if not last:
            scaled = _sum(graph, [(step.next_scale, values["state"])])
            values["scaled"] = self._composer.name("scaled", scaled)

    def _noise(self, terms: Mapping[str, ir.Value]) -> ir.Value:
        """The next draw, or a sample of the predicted noise, weighted."""
        graph = self._graph
        position = graph.constant(f"chain/draw_{self._draw}", np.array(self._draw, np.int64))
        noise = graph.op("Gather", self._composer.values["noise"], position, axis=0)
        self._draw += 1
        if "mean" in terms:
            deviation = graph.op("Exp", graph.op("Mul", terms["logvar"], graph.scalar(0.5)))
            noise = graph.op("Add", terms["mean"], graph.op("Mul", deviation, noise))
        return graph.op("Mul", noise, terms["weight"]) if "weight" in terms else noise


def _sum(graph: GraphBuilder, terms: Sequence[tuple[float, ir.Value]]) -> ir.Value:
    """The sum of values times factors, without operations for factors of 1."""
    scaled = [
        value if factor == 1 else graph.op("Mul", value, graph.scalar(factor))
        for factor, value in terms
    ]
    return functools.reduce(functools.partial(graph.op, "Add"), scaled)
