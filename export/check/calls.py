"""What each stage gets and gives while the eager chain runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lpnsr.kernels.recurrence import Step, drive
from lpnsr.models.chain import Chain, Eager
from lpnsr.models.families import Stage


@dataclass(frozen=True)
class Call:
    """One call of a stage.

    Attributes:
        stage: which.
        function: computes it.
        arguments: the inputs, followed, if the stage depends on the timestep, by what this becomes.
        outputs: what it gives.
    """

    stage: Stage
    function: Callable[..., tuple[Tensor, ...]]
    arguments: tuple[Any, ...]
    outputs: tuple[Tensor, ...]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The inputs by name."""
        return dict(zip(self.stage.inputs, self.arguments, strict=False))


@torch.no_grad()
def record(chain: Chain, lr: Tensor, noise: Tensor) -> list[Call]:
    """Run the eager chain; all calls of its stages, in order.

    Args:
        chain: the networks, float32.
        lr: (B, 3, h, w) in [-1, 1].
        noise: (K, B, C, h', w'), standard normal.
    """
    executor = _Recording(chain, {"lr": lr}, noise)
    drive(chain.stages, chain.updates(), executor)
    return executor.calls


class _Recording(Eager):
    """Computes a chain and notes what is called."""

    def __init__(self, chain: Chain, values: Mapping[str, Tensor], noise: Tensor) -> None:
        super().__init__(chain, values, noise)
        self.calls: list[Call] = []

    def call(self, stage: Stage, step: Step, number: int) -> None:
        """Call a stage and note it."""
        inputs = [self.values[name] for name in stage.inputs]
        arguments = (*inputs, *self.chain.told(stage, step, inputs[0].device))
        super().call(stage, step, number)
        outputs = tuple(self.values[name] for name in stage.outputs)
        function = partial(stage, self.chain.networks(stage))
        self.calls.append(Call(stage, function, arguments, outputs))
