"""A staged chain on the host: one engine call for each network, the fused kernel between them.

What passes between them is float32, by the names of `lpnsr.kernels.recurrence`, but `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from lpnsr import kernels
from lpnsr.kernels.recurrence import Step, drive
from lpnsr.runtime.manifest import StageGraph

Compute = Callable[[StageGraph, Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Runs a stage: its inputs in, its outputs out, both in the stage's order."""


def upscale(
    stages: Sequence[StageGraph],
    steps: Sequence[Step],
    compute: Compute,
    values: Mapping[str, np.ndarray],
    noise: Iterable[np.ndarray],
    threads: int | None = None,
) -> dict[str, np.ndarray]:
    """Run the whole chain on one batch.

    Args:
        stages: of the graph for this batch and tile.
        steps: of the manifest.
        compute: runs a stage.
        values: the chain's inputs, by name: lr, and what was made for the whole picture.
        noise: the draws, each float32 (B, C, h', w'), standard normal.
        threads: CPU threads of the kernel; all by default.

    Returns:
        all values by name, as they are at the end; `sr` is the output.
    """
    executor = _OnHost(compute, values, noise, threads)
    drive(stages, steps, executor)
    return executor.values


class _OnHost:
    """An executor of `drive` on NumPy arrays."""

    def __init__(
        self,
        compute: Compute,
        values: Mapping[str, np.ndarray],
        noise: Iterable[np.ndarray],
        threads: int | None,
    ) -> None:
        self.values = dict(values)
        self._compute, self._draws, self._threads = compute, iter(noise), threads

    def call(self, stage: StageGraph, step: Step, number: int) -> None:
        self.values["step"] = np.array([number])
        outputs = self._compute(stage, [self.values[name] for name in stage.inputs])
        self.values |= zip(stage.outputs, outputs, strict=True)

    def update(self, step: Step, state: str, terms: Sequence[str]) -> None:
        given = {name: self.values[name] for name in terms}
        self.values["state"], self.values["scaled"] = kernels.residual_shift(
            step,
            self.values[state],
            given.get("x0"),
            y=given.get("y"),
            mean=given.get("mean"),
            logvar=given.get("logvar"),
            weight=given.get("weight"),
            eps=next(self._draws) if step.noise else None,
            threads=self._threads,
        )
