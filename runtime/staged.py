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
    known = {stage.name: stage for stage in stages}
    values = {"lr": lr}
    draws = iter(noise)

    def call(name: str) -> None:
        stage = known[name]
        outputs = compute(stage, [values[source] for source in stage.inputs])
        values.update(zip(stage.outputs, outputs, strict=True))

    def update(step: StepConstants, state: np.ndarray, names: Sequence[str]) -> None:
        values["state"], values["scaled"] = kernels.residual_shift(
            kernels.Step(step.state, step.prediction, step.start, step.noise, step.next_scale),
            state,
            **{name: values[name] for name in names if name in values},
            eps=next(draws) if step.noise else None,
            threads=threads,
        )

    for name in ("pre_upsampler", "encoder", "auxiliary"):
        if name in known:
            call(name)
    start, *rest = steps
    update(start, values["y"], ["weight"])
    for number, step in enumerate(rest):
        values["step"] = np.array([number])
        call("denoiser")
        names = ["x0", "y", "weight"]
        if step.predicted:
            call("noise_predictor")
            names += ["mean", "logvar"]
        update(step, values["state"], names)
    call("decoder")
    return values
