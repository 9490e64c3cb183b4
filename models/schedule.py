"""The residual-shifting diffusion schedule and the coefficients of its reverse chain."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReverseStep:
    """One step of a reverse chain, x' = x·state + x0·prediction + s·noise.

    Attributes:
        timestep: what the networks are told, t - 1.
        input_scale: the denoiser sees the state times this.
        state: factor of the current state x_t.
        prediction: factor of the predicted x_0.
        noise: factor of the noise; 0 at the last step.
    """

    timestep: int
    input_scale: float
    state: float
    prediction: float
    noise: float


@dataclass(frozen=True)
class Schedule:
    """Exponential schedule of residual shifting.

    Source: Yue et al., ResShift (2023), eq. 10 (eta), eq. 7 (posterior).

    Attributes:
        steps: length T of the chain.
        kappa: strength of the noise.
        min_noise_level: standard deviation of the noise at t = 1.
        etas_end: sqrt(eta) at t = T.
        power: how long the schedule stays low.
        data_variance: variance of a clean latent; the denoiser's input is divided by
            sqrt(kappa²·eta + data_variance).
    """

    steps: int = 4
    kappa: float = 2.0
    min_noise_level: float = 0.2
    etas_end: float = 0.99
    power: float = 0.3
    data_variance: float = 1.0

    @property
    def etas(self) -> np.ndarray:
        """eta_1 … eta_T, float64, index 0 = first step."""
        start = min(self.min_noise_level / self.kappa, self.min_noise_level)
        fraction = np.linspace(0.0, 1.0, self.steps) ** self.power
        return (start * (self.etas_end / start) ** fraction) ** 2

    @property
    def start_noise(self) -> float:
        """Factor of the noise that is added to y to start the chain: kappa·sqrt(eta_T)."""
        return self.kappa * math.sqrt(self.etas[-1])

    def reverse_steps(self) -> list[ReverseStep]:
        """The steps t = T … 1 in the order of the chain."""
        etas = self.etas
        previous = np.concatenate([[0.0], etas[:-1]])
        return [
            ReverseStep(
                timestep=t,
                input_scale=float((self.kappa**2 * etas[t] + self.data_variance) ** -0.5),
                state=float(previous[t] / etas[t]),
                prediction=float((etas[t] - previous[t]) / etas[t]),
                noise=float(
                    self.kappa * math.sqrt(previous[t] * (etas[t] - previous[t]) / etas[t])
                ),
            )
            for t in reversed(range(self.steps))
        ]
