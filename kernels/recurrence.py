"""The reverse recurrence: a step as data, and the one loop that goes through the steps.

Whoever computes a chain, eager PyTorch, a graph builder, engines on a CPU or on a GPU, is an
`Executor` of `drive`: it is told which stage to call next, and when to update the state. Stages
take and give values by name. These names have a meaning of their own; a family may add others:

| name | shape | what it is |
| --- | --- | --- |
| lr | (B, 3, h, w) | the input, in [-1, 1] |
| picture | (B, 3, scale·h, scale·w) | the input at the size of the output |
| y | latent | where the chain starts |
| estimate, weight | latent | an estimate of the clean latent, and what noise weighs because of it |
| state | latent | the state x_t; at the end of the chain x_0 |
| scaled | latent | the state as the denoiser wants it |
| x0 | latent | the denoiser's prediction |
| mean, logvar | latent | the noise predictor's distribution |
| sr | (B, 3, scale·h, scale·w) | the output, in [-1, 1] |

A latent is (B, C, k·h, k·w), where C and k are the model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

PICTURE, START, GUIDE, DENOISE, NOISE, END = PHASES = (
    "picture",
    "start",
    "guide",
    "denoise",
    "noise",
    "end",
)
"""When a stage is called: once for a whole picture; before the chain, up to y; before the chain,
from y on; at every step; at every step that adds predicted noise, after the denoiser; after the
chain."""

WEIGHT = "weight"


@dataclass(frozen=True)
class Step:
    """One update of the state, x' = state·x + prediction·x0 + start·y + noise·weight·z.

    z is a sample of the predicted noise, mean + exp(logvar/2)·eps, or the draw eps itself. An
    update that starts a chain has y for its x and no prediction.

    Attributes:
        state: factor of the state x.
        prediction: factor of the denoiser's prediction.
        start: factor of y, where the chain started.
        noise: factor of the noise; 0 if the update takes no draw.
        next_scale: what the denoiser wants the new state multiplied by; 1 after the last step.
        predicted: whether the noise predictor gives mean and log-variance; else they are 0.
        timestep: what the networks are told.
        input_scale: what the denoiser wants the state x multiplied by, `next_scale` of the update
            before.
    """

    state: float
    prediction: float
    start: float = 0.0
    noise: float = 0.0
    next_scale: float = 1.0
    predicted: bool = False
    timestep: int = 0
    input_scale: float = 1.0


class ChainStage(Protocol):
    """What `drive` has to know of a stage."""

    @property
    def phase(self) -> str:
        """One of `PHASES`."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values that it gives."""


S = TypeVar("S", bound=ChainStage, contravariant=True)


class Executor(Protocol[S]):
    """Computes stages and updates; holds the values."""

    def call(self, stage: S, step: Step, number: int) -> None:
        """Compute the outputs of `stage` from its inputs.

        Args:
            stage: which.
            step: the step that it belongs to; before the chain the update that starts it, after the
                chain the last.
            number: of the step, from 0; outside the chain 0.
        """

    def update(self, step: Step, state: str, terms: Sequence[str]) -> None:
        """Make a new `state` and `scaled`.

        Args:
            step: the factors. Those that are 0 take no value, and without noise there is no draw.
            state: name of the value that is x.
            terms: names of the other values there are: x0, y, weight, mean, logvar.
        """


def drive(stages: Sequence[S], steps: Sequence[Step], executor: Executor[S]) -> None:
    """Go through a chain.

    Args:
        stages: in the order in which those of one phase are called.
        steps: the update that starts the chain, then one for each of its steps.
        executor: does the work.
    """
    start, *rest = steps

    def call(phase: str, step: Step, number: int = 0) -> None:
        for stage in stages:
            if stage.phase == phase:
                executor.call(stage, step, number)

    for phase in (PICTURE, START, GUIDE):
        call(phase, start)
    weight = [WEIGHT] if any(WEIGHT in stage.outputs for stage in stages) else []
    executor.update(start, "y", weight)
    for number, step in enumerate(rest):
        call(DENOISE, step, number)
        terms = ["x0", "y", *weight]
        if step.predicted:
            call(NOISE, step, number)
            terms += ["mean", "logvar"]
        executor.update(step, "state", terms)
    call(END, steps[-1])
