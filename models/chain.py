"""The whole chain in eager PyTorch: the reference that every exported graph is held against."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from lpnsr.kernels.recurrence import (
    DENOISE,
    END,
    GUIDE,
    NOISE,
    PHASES,
    PICTURE,
    START,
    Step,
    drive,
)
from lpnsr.models.families import Codec, Denoiser, Stage
from lpnsr.models.schedule import Recurrence


def residual_shift(
    step: Step,
    x: Tensor,
    x0: Tensor | None = None,
    *,
    y: Tensor | None = None,
    mean: Tensor | None = None,
    logvar: Tensor | None = None,
    weight: Tensor | None = None,
    eps: Tensor | None = None,
) -> Tensor:
    """One reverse step, x_t -> x_{t-1}; `lpnsr.kernels.residual_shift` with gradients.

    All tensors are (B, C, h, w). Those whose factor is 0 may be left out, and so may the noise's
    distribution where it is standard normal, and its weight where it is 1.

    Raises:
        ValueError: another one was left out.
    """
    terms = [(step.state, x), (step.prediction, x0), (step.start, y)]
    shifted = sum((factor * _given(value) for factor, value in terms if factor), x.new_zeros(()))
    if not step.noise:
        return shifted
    noise = _given(eps)
    if mean is not None:
        noise = mean.float() + (_given(logvar) / 2).exp() * noise
    return shifted + step.noise * (noise if weight is None else weight * noise)


class Chain(nn.Module):
    """The networks of a model, and the recurrence that calls them.

    Each network is an attribute with the name of its role, but for the autoencoder, or what stands
    in for it, which is called `codec`; those that are left out are None.

    Args:
        schedule: the diffusion schedule.
        stages: what is called; see `lpnsr.models.families`. Those whose networks are not all there
            are left out.
        networks: by role.
    """

    codec: Codec
    denoiser: Denoiser

    def __init__(
        self,
        schedule: Recurrence,
        stages: Sequence[Stage],
        networks: Mapping[str, nn.Module | None],
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self._stages = tuple(stages)
        for role, network in networks.items():
            setattr(self, _attribute(role), network)

    def has(self, role: str) -> bool:
        """Whether there is a network that plays a role."""
        return getattr(self, _attribute(role), None) is not None

    def network(self, role: str) -> nn.Module:
        """The network that plays a role.

        Raises:
            LookupError: there is none.
        """
        if not self.has(role):
            raise LookupError(f"the chain has no {role}")
        return getattr(self, _attribute(role))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, in the order of the chain."""
        return tuple(stage for stage in self._stages if all(map(self.has, stage.networks)))

    def networks(self, stage: Stage) -> list[nn.Module]:
        """Those that a stage calls."""
        return [self.network(role) for role in stage.networks]

    def stage(self, name: str) -> Stage:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)

    @property
    def codebook(self) -> Stage | None:
        """The stage that decides which codes are decoded, if the latent is quantised."""
        return next((s for s in self.stages if s.phase == END and s.precise), None)

    def updates(self) -> list[Step]:
        """The update that starts the chain, then one for each of its steps.

        Without a noise predictor noise is standard normal.
        """
        predicts = any(stage.phase == NOISE for stage in self.stages)
        steps = self.schedule.updates()
        return [replace(step, predicted=step.predicted and predicts) for step in steps]

    def prepare(self) -> None:
        """Let networks keep what they need of one another, once they have their weights.

        DM-SR's denoiser so keeps what it makes of the prompt. To be called again when the weights
        have changed.
        """
        with torch.no_grad():
            for stage in self.stages:
                if stage.prepare:
                    stage.prepare(*self.networks(stage))

    def replaced(self, **parts: Recurrence | nn.Module | None) -> Chain:
        """A chain with other attributes; the rest is shared."""
        changed = copy.copy(self)
        changed._modules = dict(self._modules)
        for name, part in parts.items():
            setattr(changed, name, part)
        return changed

    def estimate(self, lr: Tensor) -> dict[str, Tensor]:
        """What is made once for a whole picture, of one of its tiles, by name."""
        values = self._before(lr, (PICTURE,))
        return {name: value for name, value in values.items() if name != "lr"}

    def forward(self, lr: Tensor, noise: Tensor, **given: Tensor) -> Tensor:
        """Upscale.

        Args:
            lr: (B, 3, h, w) in [-1, 1], sides multiples of the preset's `multiple`.
            noise: (K, B, C, h', w') standard normal, with the sizes of a latent; draw 0 starts the
                chain, draw k feeds the k-th step that uses noise.
            **given: what was made for the whole picture, by name; left out, it is made of `lr`.

        Returns:
            (B, 3, scale·h, scale·w) in [-1, 1].

        Raises:
            ValueError: there are more or fewer draws of noise than the schedule needs.
        """
        return self.run(lr, noise, **given)["sr"]

    def run(self, lr: Tensor, noise: Tensor, **given: Tensor) -> dict[str, Tensor]:
        """Upscale; all values of the chain by name, as they are at the end."""
        phases = [phase for phase in PHASES if not (given and phase == PICTURE)]
        return self._execute({"lr": lr, **given}, noise, phases)

    def encode(self, lr: Tensor) -> Tensor:
        """Latent y where the chain starts."""
        return self._before(lr, (PICTURE, START))["y"]

    def reverse(self, y: Tensor, lr: Tensor, noise: Tensor, steps: int | None = None) -> Tensor:
        """The reverse chain from latent y to latent x_0, or the state after its first `steps`.

        Args:
            y: a latent.
            lr: (B, 3, h, w).
            noise: (K, B, C, h', w'), as many draws as these steps use.
            steps: how far to go; all by default.

        Raises:
            ValueError: there are more or fewer draws.
        """
        phases = (PICTURE, GUIDE, DENOISE, NOISE)
        return self._execute({"lr": lr, "y": y}, noise, phases, steps)["state"]

    def condition(self, lr: Tensor, y: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """What the denoiser sees beside a state, and the weight of the noise, if it has one.

        Args:
            lr: (B, 3, h, w).
            y: a latent.
        """
        executor = Eager(self, {"lr": lr, "y": y}, ())
        for stage in self._of((GUIDE,)):
            executor.call(stage, self.schedule.updates()[0], 0)
        (denoiser,) = self._of((DENOISE,))
        _, *names = denoiser.inputs
        return [executor.values[name] for name in names], executor.values.get("weight")

    def predict_x0(self, step: Step, x: Tensor, *condition: Tensor) -> Tensor:
        """The denoiser on a state, which is not normalised yet."""
        (stage,) = self._of((DENOISE,))
        return self.compute(stage, step, x * step.input_scale, *condition)[0]

    def compute(self, stage: Stage, step: Step, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of a stage.

        Args:
            stage: one of `stages`.
            step: whose timestep it is told.
            inputs: in the order of the stage.
        """
        arguments = *inputs, *self.told(stage, step, inputs[0].device)
        return stage(self.networks(stage), *arguments)

    def told(
        self, stage: Stage, step: Step, device: torch.device | str = "cpu"
    ) -> tuple[object, ...]:
        """What a stage is told of the timestep: one value, or nothing if it does not depend on it.

        It is the same for the whole batch, over which it broadcasts.
        """
        if not stage.folded:
            return ()
        # A stage is folded only if its first network makes something of a timestep.
        network = cast(Denoiser, self.network(stage.networks[0]))
        return (network.modulation(torch.tensor([step.timestep], device=device)),)

    def _of(self, phases: Collection[str]) -> list[Stage]:
        return [stage for stage in self.stages if stage.phase in phases]

    def _before(self, lr: Tensor, phases: Collection[str]) -> dict[str, Tensor]:
        """The values after some of the phases before the chain."""
        executor = Eager(self, {"lr": lr}, ())
        for stage in self._of(phases):
            executor.call(stage, self.schedule.updates()[0], 0)
        return executor.values

    def _execute(
        self,
        values: Mapping[str, Tensor],
        noise: Tensor,
        phases: Collection[str],
        steps: int | None = None,
    ) -> dict[str, Tensor]:
        updates = self.updates()[: None if steps is None else steps + 1]
        draws = sum(step.noise > 0 for step in updates)
        if len(noise) != draws:
            raise ValueError(f"the chain needs {draws} draws, not {len(noise)}")
        executor = Eager(self, values, noise)
        drive(self._of(phases), updates, executor)
        return executor.values


class Eager:
    """Computes a chain in eager PyTorch; an executor of `lpnsr.kernels.recurrence.drive`.

    Args:
        chain: the networks.
        values: what is known at the start, by name.
        noise: one draw after the other, each (B, C, h, w).

    Attributes:
        values: all values by name.
    """

    def __init__(
        self, chain: Chain, values: Mapping[str, Tensor], noise: Tensor | Sequence[Tensor]
    ) -> None:
        self.chain, self.values, self._draws = chain, dict(values), iter(noise)

    def call(self, stage: Stage, step: Step, number: int) -> None:
        """Call the networks of a stage."""
        inputs = [self.values[name] for name in stage.inputs]
        outputs = self.chain.compute(stage, step, *inputs)
        self.values |= zip(stage.outputs, outputs, strict=True)

    def update(self, step: Step, state: str, terms: Sequence[str]) -> None:
        """Update the state."""
        values = {name: self.values[name] for name in terms}
        eps = next(self._draws) if step.noise else None
        x = residual_shift(step, self.values[state], **values, eps=eps)
        self.values |= {"state": x, "scaled": x * step.next_scale}


def _given(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("a step lacks one of its tensors")
    return tensor.float()


def _attribute(role: str) -> str:
    return "codec" if role == "autoencoder" else role
