"""How much memory training takes, counted on shapes alone: no weights, no GPU, no data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from lpnsr.models.presets import Preset
from lpnsr.models.training.config import StageConfig
from lpnsr.models.training.objectives import make_objective

FLOAT = 4
TRAINED = 5 * FLOAT  # weight, gradient, two moments of AdamW, moving average
JUDGE = 4 * FLOAT  # the discriminator has no average

# Roles of the networks through which gradients may go.
CALLED = ("denoiser", "noise_predictor", "autoencoder", "decoder")


@dataclass(frozen=True)
class Estimate:
    """Bytes that one stage takes, in float32; autocast roughly halves the activations.

    Attributes:
        trained: parameters of the trained network.
        frozen: parameters of the others.
        states: weights, gradients, optimizer and average.
        activations: what is kept for the way back.
        checkpointed: the same with activation checkpointing.
    """

    trained: int
    frozen: int
    states: int
    activations: int
    checkpointed: int

    def row(self, name: str) -> str:
        """A line of the Markdown table."""
        sizes = (self.states, self.activations, self.checkpointed, self.states + self.checkpointed)
        return (
            f"| {name} | {self.trained / 1e6:.1f} M | {self.frozen / 1e6:.1f} M | "
            + " | ".join(f"{size / 1e9:.2f}" for size in sizes)
            + " |"
        )


HEADER = """\
| stage | trained | frozen | states, GB | activations | checkpointed | in all |
| --- | --- | --- | --- | --- | --- | --- |"""


def estimate(preset: Preset, name: str, settings: StageConfig) -> Estimate:
    """What the stage `name` takes with these settings; the perceptual term is not counted."""
    with torch.device("meta"):
        chain = preset.build()
        lr = torch.empty(settings.batch, 3, settings.crop, settings.crop)
        hr = nn.functional.interpolate(lr, scale_factor=float(preset.scale))
    network = chain.network(name)
    network.requires_grad_(True)
    calls: list[_Saved] = []
    for part in map(chain.network, filter(chain.has, {*CALLED, name})):
        for method in ("forward", "decode"):
            if method in vars(type(part)):
                setattr(part, method, partial(_counted, calls, getattr(part, method)))
    if name == "encoder":
        chain.published_encoder = chain.encoder  # as large, but frozen
    settings = StageConfig(**{**vars(settings), "checkpoint_activations": False})
    stage = make_objective(name, chain, preset, settings)
    judge: nn.Module = nn.Identity()
    outside = _Saved()
    with torch.device("meta"):
        if settings.adversarial:
            judge = stage.discriminator(settings.judge_channels)
        with outside:
            found, expected, *_ = stage.predict(lr, hr)
            judged, _ = stage.judged(found, expected, hr)
            judge(stage.shown(judged, lr)).sum() + nn.functional.l1_loss(found, expected)

    trained = _count(network)
    frozen = _count(chain) - trained
    judging = _count(judge)
    inputs = sum(call.inputs for call in calls)
    return Estimate(
        trained=trained,
        frozen=frozen,
        states=TRAINED * trained + FLOAT * frozen + JUDGE * judging,
        activations=outside.bytes + sum(call.bytes for call in calls),
        checkpointed=outside.bytes + inputs + max(call.bytes for call in calls),
    )


class _Saved(saved_tensors_hooks):
    """Counts what autograd keeps; memory that is kept twice counts once, parameters never."""

    def __init__(self, inputs: int = 0) -> None:
        super().__init__(self._pack, lambda tensor: tensor)
        self.inputs = inputs
        self._kept: dict[int, torch.UntypedStorage] = {}

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._kept.values())

    def _pack(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            self._kept[storage._cdata] = storage
        return tensor


def _counted(calls: list[_Saved], method: Callable[..., Tensor], *inputs: object) -> Tensor:
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    calls.append(_Saved(sum(value.nbytes for value in tensors)))
    with calls[-1]:
        return method(*inputs)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
