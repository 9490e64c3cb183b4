"""What each stage gets and gives while the eager chain runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from lpnsr.export.graph.trace import stage_method, stages_of
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset


@dataclass(frozen=True)
class Call:
    """One call of a stage.

    Attributes:
        stage: which of `lpnsr.export.graph.trace.STAGES`.
        function: computes it.
        inputs: its arguments; pictures first, for a Swin-UNet followed by its modulation.
        output: what it gives, (B, c, h, w).
    """

    stage: str
    function: Callable[..., Tensor]
    inputs: Sequence[Any]
    output: Tensor


@torch.no_grad()
def record(chain: Chain, preset: Preset, lr: Tensor, noise: Tensor) -> list[Call]:
    """Run the eager chain; all calls of its stages, in order.

    Args:
        chain: the networks, float32.
        preset: what they are.
        lr: (B, 3, h, w) in [-1, 1].
        noise: (K, B, C, h, w), standard normal.
    """
    calls: list[Call] = []

    def listening(stage: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*inputs: object) -> Tensor:
            output = function(*inputs)
            calls.append(Call(stage, function, inputs, output))
            return output

        return call

    with ExitStack() as patches:
        for stage in stages_of(preset):
            owner, method = stage_method(chain, preset, stage)
            function = listening(stage, getattr(owner, method))
            patches.enter_context(patch.object(owner, method, function))
        chain(lr, noise)
    return calls
