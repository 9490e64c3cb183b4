"""Whether float16 can hold what a network computes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from lpnsr.export.check.calls import Call, record
from lpnsr.export.graph.precision import MixedPrecision, assign
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset

LIMIT = float(torch.finfo(torch.float16).max) / 4
"""Largest magnitude that is accepted: other pictures may go beyond those of the check."""


class RangeError(RuntimeError):
    """A stage computes numbers that float16 cannot hold."""


def settle(
    chain: Chain, preset: Preset, precision: str, tile: tuple[int, int]
) -> tuple[dict[str, str], dict[str, float]]:
    """The precision of each stage after a check of its range.

    In "mixed" precision, a stage that is beyond the range of fp16 becomes bf16.

    Args:
        chain: networks with their weights.
        preset: what they are.
        precision: one of `lpnsr.models.roles.PRECISIONS`.
        tile: (height, width) of the input pictures of the check.

    Returns:
        stage -> "fp32", "fp16" or "bf16", and stage -> largest magnitude of what is to
        be narrow, for the stages that were candidates for fp16.

    Raises:
        RangeError: a stage is beyond float16, and the precision is "fp16".
    """
    types = assign(preset, precision)
    candidates = [stage for stage, narrow in types.items() if narrow == "fp16"]
    if not candidates:
        return types, {}
    lr = torch.from_numpy(pictures(*tile))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(preset.shape("noise", len(lr), tile), generator=generator)
    calls = record(chain, lr, noise)
    found = largest(call for call in calls if call.stage.name in candidates)
    for stage in (stage for stage, value in found.items() if not value <= LIMIT):
        if precision != "mixed":
            raise RangeError(
                f"the {stage} reaches {found[stage]:.3g}, more than the {LIMIT:.3g} that leave "
                "fp16 a margin; use --precision mixed or bf16"
            )
        types[stage] = "bf16"
    return types, found


@torch.no_grad()
def largest(calls: Iterable[Call]) -> dict[str, float]:
    """Stage -> largest magnitude of all values that its narrow form stores, weights included.

    bfloat16 takes the place of float16 here: it is narrow at the same places, has the range of
    float32, and its three digits are enough for a magnitude.
    """
    found: dict[str, float] = {}
    for call in calls:
        values = [torch.zeros(())]

        def see(tensor: Tensor, values: list[Tensor] = values) -> None:
            values.append(tensor.abs().max().float())

        with MixedPrecision(torch.bfloat16, see):
            call.function(*call.arguments)
        top, name = float(torch.stack(values).nan_to_num(nan=torch.inf).max()), call.stage.name
        found[name] = max(top, found.get(name, 0.0))
    return found


def pictures(height: int, width: int) -> np.ndarray:
    """Pictures that between them reach what photographs reach, float32 (2, 3, h, w) in [-1, 1].

    White noise, and noise with the 1/f spectrum of natural pictures, scaled so that a good part of
    it is black or white.
    """
    rng = np.random.default_rng(0)
    white = rng.uniform(-1, 1, (3, height, width))
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)
    frequency = np.maximum(np.hypot(rows, columns), 1 / max(height, width))
    natural = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, height, width))) / frequency).real
    natural = np.clip(natural / natural.std(), -1, 1)
    return np.stack([white, natural]).astype(np.float32)
