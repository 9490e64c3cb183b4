"""Drives a staged chain: one engine call for each network, the fused kernel between them.

Stages take and give arrays by name. All are float32 of the batch's size B, but `step`:

| name | shape | what it is |
| --- | --- | --- |
| lr | (B, 3, h, w) | the input, in [-1, 1] |
| picture | (B, 3, 4h, 4w) | the pre-upsampled input |
| y | (B, C, h, w) | its latent, where the chain starts |
| estimate, weight | (B, C, h, w) | the auxiliary network's latent, and what it makes noise weigh |
| step | (1,) int64 | number of the step, from 0; networks know their timesteps by it |
| state, scaled | (B, C, h, w) | the state, and the same as the denoiser wants it |
| x0 | (B, C, h, w) | the denoiser's prediction |
| mean, logvar | (B, C, h, w) | the noise predictor's distribution |
| sr | (B, 3, 4h, 4w) | the output, in [-1, 1] |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lpnsr import kernels
from lpnsr.runtime.bundle import Stage, StepConstants

Compute = Callable[[Stage, Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Runs a stage: its inputs in, its outputs out, both in the stage's order."""


Call = Callable[[Stage, int], None]
"""Computes a stage, at the step of this number."""

Update = Callable[[StepConstants, str, Sequence[str]], None]
"""Makes `state` and `scaled` of the state of this name and, by name, the terms besides noise."""


def upscale(
    stages: Sequence[Stage],
    steps: Sequence[StepConstants],
    compute: Compute,
    lr: np.ndarray,
    noise: np.ndarray,
    threads: int | None = None,
) -> dict[str, np.ndarray]:
    """Run the whole chain on one batch.

    Args:
        stages: of the graph for this batch and tile.
        steps: of the manifest.
        compute: runs a stage.
        lr: float32 (B, 3, h, w) in [-1, 1].
        noise: float32 (K, B, C, h, w), standard normal.
        threads: CPU threads of the kernel; all by default.

    Returns:
        all arrays of the table above, as they are at the end; `sr` is the output.
    """
    values = {"lr": lr}
    draws = iter(noise)

    def call(stage: Stage, number: int) -> None:
        values["step"] = np.array([number])
        outputs = compute(stage, [values[source] for source in stage.inputs])
        values.update(zip(stage.outputs, outputs, strict=True))

    def update(step: StepConstants, state: str, terms: Sequence[str]) -> None:
        values["state"], values["scaled"] = kernels.residual_shift(
            factors(step),
            values[state],
            **{name: values[name] for name in terms},
            eps=next(draws) if step.noise else None,
            threads=threads,
        )

    drive(stages, steps, call, update)
    return values


def drive(
    stages: Sequence[Stage], steps: Sequence[StepConstants], call: Call, update: Update
) -> None:
    """Go through the chain: call each stage when it is its turn, update the state between them."""
    known = {stage.name: stage for stage in stages}
    for name in ("pre_upsampler", "encoder", "auxiliary"):
        if name in known:
            call(known[name], 0)
    weight = ["weight"] if "auxiliary" in known else []
    start, *rest = steps
    update(start, "y", weight)
    for number, step in enumerate(rest):
        call(known["denoiser"], number)
        terms = ["x0", "y", *weight]
        if step.predicted:
            call(known["noise_predictor"], number)
            terms += ["mean", "logvar"]
        update(step, "state", terms)
    call(known["decoder"], 0)


def factors(step: StepConstants) -> kernels.Step:
    """What the kernel wants to know of an update."""
    return kernels.Step(step.state, step.prediction, step.start, step.noise, step.next_scale)
