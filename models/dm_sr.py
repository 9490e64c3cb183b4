"""DM-SR: one step on a latent-diffusion model.

Source: "Bridging the Distribution Gap to Harness Pre-trained Diffusion Priors for
Super-Resolution" (ICLR 2026). The paper's authors have published neither code nor weights; where it
leaves something open, docstrings say what was chosen.

An encoder makes of the enlarged picture what looks like a noisy latent at the timestep t, which an
estimator reads off the picture. A denoiser tells this latent from its noise; the decoder makes the
picture of what is left.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lpnsr.kernels.recurrence import DENOISE, END, PICTURE, START
from lpnsr.models.diffusion_unet import DiffusionUNet
from lpnsr.models.families import Codec, Stage, apply, decode
from lpnsr.models.text_tower import TextTower

TRAINED_STEPS = 1000
FIRST_BETA, LAST_BETA = 0.00085, 0.012


def signal_shares() -> Tensor:
    """Share of the signal in a noisy latent's variance, by timestep (alpha-bar): (1000,) float32.

    The schedule of Stable Diffusion, whose square roots of beta are evenly spaced.
    """
    ends = FIRST_BETA**0.5, LAST_BETA**0.5
    betas = torch.linspace(*ends, TRAINED_STEPS, dtype=torch.float64).square()
    return (1 - betas).cumprod(0).float()


class Decomposition(nn.Module):
    """Tells a noisy latent from its noise, in one step or in several (section 4.4).

    Between steps goes a state of twice the channels of a latent: the clean latent so far, and the
    noise that the first step has found. Each later step adds this noise again, as strong as it is
    at a timestep that is nearer to 0 (DDIM), and asks the denoiser once more. At first, the noisy
    latent stands in place of the clean one.

    Args:
        steps: of the whole chain. The k-th from the end is at k/steps of the estimated timestep.
    """

    signal: Tensor
    noise: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        shares = signal_shares()
        self.register_buffer("signal", shares.sqrt(), persistent=False)
        self.register_buffer("noise", (1 - shares).sqrt(), persistent=False)

    def modulation(self, timestep: Tensor) -> tuple[Tensor, Tensor]:
        """What the number of a step (1,), counted from the end, comes to.

        Returns:
            the part of the estimated timestep that it is at, and 1 for the first step, 0 for the
            others; each (1,).
        """
        return timestep / self.steps, (timestep == self.steps).float()

    def start(self, noisy: Tensor) -> Tensor:
        """The state (B, 2C, h, w) that a noisy latent (B, C, h, w) makes."""
        return torch.cat([noisy, torch.zeros_like(noisy)], dim=1)

    def forward(
        self,
        unet: DiffusionUNet,
        state: Tensor,
        estimate: Tensor,
        share: Tensor,
        first: Tensor,
    ) -> Tensor:
        """One step, equation 2.

        Args:
            unet: predicts noise.
            state: (B, 2C, h, w).
            estimate: (B,), the estimated timestep. It is rounded, and so is the part of it that
                the denoiser is told.
            share: from `modulation`.
            first: from `modulation`.

        Returns:
            the next state.
        """
        timestep = (estimate.round() * share).round()
        latent, found = state.chunk(2, dim=1)
        first = first[:, None, None, None]
        noisy = first * latent + (1 - first) * self.noisy(latent, found, timestep)
        predicted = unet(noisy, unet.modulation(timestep))
        signal, noise = self._at(timestep)
        clean = (noisy - noise * predicted) / signal
        return torch.cat([clean, first * predicted + (1 - first) * found], dim=1)

    def noisy(self, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """A clean latent with noise, both (B, C, h, w), at a timestep (B,) (equation 1)."""
        signal, strength = self._at(timestep)
        return signal * clean + strength * noise

    def _at(self, timestep: Tensor) -> list[Tensor]:
        """Strength of signal and noise, each (B, 1, 1, 1)."""
        index = timestep.long()
        return [table[index][:, None, None, None] for table in (self.signal, self.noise)]


class FixedTimestep(nn.Module):
    """In place of an estimator, the same timestep for every picture (table 3)."""

    def __init__(self, timestep: int) -> None:
        super().__init__()
        self.timestep = timestep

    def forward(self, picture: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B,)."""
        return torch.full((len(picture),), float(self.timestep), device=picture.device)


def dm_sr(roles: Collection[str]) -> tuple[Stage, ...]:
    """The stages of DM-SR.

    Without a timestep estimator, the timestep is fixed and part of the graph. With one, it is
    estimated once for a picture, from the picture at the size of the output, on which it is trained
    together with the rest: the mean of what its tiles give.

    Args:
        roles: `encoder`, `denoiser`, `decoder`, `text_encoder` and, optionally,
            `timestep_estimator`.
    """
    phase = PICTURE if "timestep_estimator" in roles else START
    networks = "pre_upsampler", "timestep_estimator"
    conditioned = "decomposition", "denoiser", "text_encoder"
    return (
        # Precise, as the timestep is rounded.
        Stage("estimator", phase, networks, ("lr",), ("timestep",), _estimate, precise=True),
        Stage("upsampler", START, ("pre_upsampler",), ("lr",), ("picture",), apply),
        Stage(
            "encoder",
            START,
            ("decomposition", "encoder"),
            ("picture", "timestep"),
            ("y",),
            _encode,
        ),
        Stage(
            "denoiser",
            DENOISE,
            conditioned,
            ("scaled", "timestep"),
            ("x0",),
            _decompose,
            folded=True,
            prepare=_tell_prompt,
        ),
        Stage("decoder", END, ("decoder",), ("state",), ("sr",), _decode),
    )


def _estimate(upsampler: nn.Module, estimator: nn.Module, lr: Tensor) -> Tensor:
    return estimator(upsampler(lr))


def _encode(
    decomposition: Decomposition, encoder: nn.Module, picture: Tensor, estimate: Tensor
) -> Tensor:
    return decomposition.start(encoder(picture, estimate.round()))


def _tell_prompt(_: Decomposition, unet: DiffusionUNet, text: TextTower) -> None:
    unet.attend_to(text())


def _decompose(
    decomposition: Decomposition,
    unet: DiffusionUNet,
    _: TextTower,
    state: Tensor,
    estimate: Tensor,
    told: tuple[Tensor, Tensor],
) -> Tensor:
    return decomposition(unet, state, estimate, *told)


def _decode(decoder: Codec, state: Tensor) -> Tensor:
    latent, _ = state.chunk(2, dim=1)
    return decode(decoder, latent)
