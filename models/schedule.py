"""The residual-shifting diffusion schedule and the coefficients of its reverse chain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from lpnsr.kernels.recurrence import Step


class Recurrence(Protocol):
    """What chains and presets know of a schedule."""

    @property
    def steps(self) -> int:
        """Length of the whole chain."""

    @property
    def draws(self) -> int:
        """Noise draws of the chain."""

    @property
    def deterministic(self) -> bool:
        """Whether no step draws noise."""

    def truncated(self, steps: int) -> Recurrence:
        """A chain of another length.

        Raises:
            ValueError: there is none of that length.
        """

    def updates(self) -> list[Step]:
        """The update that starts the chain, then one for each of its steps."""

    def reverse_steps(self) -> list[Step]:
        """The steps in the order of the chain."""


@dataclass(frozen=True)
class Schedule:
    """Exponential schedule of residual shifting.

    Source: Yue et al., ResShift (2023), eq. 10 (eta), eq. 7 (random chain). Zhang et al., UPSR
    (2025), section 3.2 (noise weight), appendix A (deterministic chain). Wang et al., SinSR (2024):
    x_0 from x_T in one step.

    Attributes:
        steps: length T of the chain.
        kappa: strength of the noise.
        min_noise_level: standard deviation of the noise at t = 1.
        etas_end: sqrt(eta) at t = T.
        power: how long the schedule stays low.
        data_variance: variance of a clean latent; the denoiser's input is divided by
            sqrt(noise_variance·kappa²·eta + data_variance).
        noise_variance: mean square of the weighted noise.
        deterministic: all noise comes at the start; each step then keeps the state's distance from
            its mean, in proportion, instead of drawing some of it anew.
        least_weight: factor of the noise where an auxiliary network's estimate is equal to y.
        full_difference: half the difference of the two at which the factor reaches 1.
        start: step that the chain starts at, from y with this step's noise; 0 for T. A chain that
            starts later is shorter, and its steps are those of the whole.
        stride: how far a step goes, x_t -> x_{t-stride} (or x_0, where that is nearer).
        noise_kinds: which of `lpnsr.models.roles.NOISE_KINDS` each step but the last adds, in the
            order of the chain; left out, "predicted" where the chain has a noise predictor, else
            "gaussian".
    """

    steps: int = 4
    kappa: float = 2.0
    min_noise_level: float = 0.2
    etas_end: float = 0.99
    power: float = 0.3
    data_variance: float = 1.0
    noise_variance: float = 1.0
    deterministic: bool = False
    least_weight: float = 1.0
    full_difference: float = 1.0
    start: int = 0
    stride: int = 1
    noise_kinds: tuple[str, ...] = ()

    def truncated(self, steps: int) -> Schedule:
        """The chain of the last `steps` steps.

        Raises:
            ValueError: the schedule has not that many, or `steps` is less than 1.
        """
        if not 1 <= steps <= len(self._visited):
            raise ValueError(f"a chain of {len(self._visited)} steps cannot be run with {steps}")
        kinds = self.noise_kinds[len(self._visited) - steps :]
        return replace(self, start=self._visited[-steps], noise_kinds=kinds)

    @property
    def etas(self) -> np.ndarray:
        """eta_1 … eta_T, float64, index 0 = first step."""
        start = min(self.min_noise_level / self.kappa, self.min_noise_level)
        fraction = np.linspace(0.0, 1.0, self.steps) ** self.power
        return (start * (self.etas_end / start) ** fraction) ** 2

    @property
    def start_noise(self) -> float:
        """Factor of the noise that is added to y to start the chain, kappa·sqrt(eta)."""
        return self.kappa * math.sqrt(self.etas[self._visited[0] - 1])

    @property
    def draws(self) -> int:
        """Noise draws of the chain: one starts it, and one for each step that uses noise."""
        return sum(step.noise > 0 for step in self.updates())

    def updates(self) -> list[Step]:
        """The update that starts the chain, then one for each of its steps."""
        steps = self.reverse_steps()
        start = Step(
            state=1.0,
            prediction=0.0,
            noise=self.start_noise,
            next_scale=steps[0].input_scale,
            timestep=steps[0].timestep,
        )
        return [start, *steps]

    def reverse_steps(self) -> list[Step]:
        """The steps in the order of the chain, from where it starts."""
        etas = [0.0, *self.etas.tolist()]
        steps = [self._step(t - 1, etas[t], etas[max(t - self.stride, 0)]) for t in self._visited]
        for number, kind in enumerate(self.noise_kinds):
            steps[number] = _with_noise(steps[number], kind)
        scales = [*(step.input_scale for step in steps[1:]), 1.0]
        return [replace(step, next_scale=scale) for step, scale in zip(steps, scales, strict=True)]

    @property
    def _visited(self) -> range:
        """The t of every state x_t that the chain goes on from."""
        return range(self.start or self.steps, 0, -self.stride)

    def _step(self, timestep: int, eta: float, previous: float) -> Step:
        state = math.sqrt(previous / eta) if self.deterministic else previous / eta
        start = previous - math.sqrt(eta * previous) if self.deterministic else 0.0
        variance = 0.0 if self.deterministic else previous * (eta - previous) / eta
        return Step(
            state=state,
            prediction=1.0 - state - start,
            start=start,
            noise=self.kappa * math.sqrt(variance),
            predicted=variance > 0,
            timestep=timestep,
            input_scale=(self.noise_variance * self.kappa**2 * eta + self.data_variance) ** -0.5,
        )


@dataclass(frozen=True)
class Direct:
    """There are no steps: what the chain starts from is what it ends with."""

    steps: ClassVar[int] = 0
    draws: ClassVar[int] = 0
    deterministic: ClassVar[bool] = True

    def truncated(self, steps: int) -> Direct:
        """Itself.

        Raises:
            ValueError: `steps` is not 0.
        """
        if steps:
            raise ValueError("it has no steps; leave out --steps")
        return self

    def updates(self) -> list[Step]:
        """The update that starts the chain, y as it is."""
        return [Step(state=1.0, prediction=0.0)]

    def reverse_steps(self) -> list[Step]:
        """None."""
        return []


@dataclass(frozen=True)
class Refinement:
    """x_0 is what the denoiser makes of y, and then of what it made; nothing is drawn.

    The steps' timesteps are their numbers, counted from the end.

    Attributes:
        steps: of the chain.
        timestep: of the diffusion model, for every picture the same; None if it is estimated.
    """

    steps: int = 1
    timestep: int | None = None
    draws: ClassVar[int] = 0
    deterministic: ClassVar[bool] = True

    def truncated(self, steps: int) -> Refinement:
        """The same with another number of steps, which may be larger."""
        return replace(self, steps=steps)

    def updates(self) -> list[Step]:
        """The update that starts the chain, y as it is, and its steps."""
        start = Step(state=1.0, prediction=0.0, timestep=self.steps)
        return [start, *self.reverse_steps()]

    def reverse_steps(self) -> list[Step]:
        """The steps in the order of the chain."""
        return [Step(0.0, 1.0, timestep=number) for number in range(self.steps, 0, -1)]


def residual(schedule: Recurrence) -> Schedule:
    """A schedule, for what only residual shifting knows.

    Raises:
        TypeError: it is none of residual shifting.
    """
    if not isinstance(schedule, Schedule):
        raise TypeError("this needs a schedule of residual shifting")
    return schedule


def refinement(schedule: Recurrence) -> Refinement:
    """A schedule, for what only refinement knows.

    Raises:
        TypeError: it is none of refinement.
    """
    if not isinstance(schedule, Refinement):
        raise TypeError("this needs a schedule of refinement")
    return schedule


def _with_noise(step: Step, kind: str) -> Step:
    noise = 0.0 if kind == "zero" else step.noise
    return replace(step, noise=noise, predicted=kind == "predicted" and noise > 0)
