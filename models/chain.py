"""The whole chain in eager PyTorch: the reference that every exported graph is held against."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lpnsr.models.schedule import ReverseStep, Schedule

LOGVAR_RANGE = (-30.0, 20.0)


def residual_shift(
    step: ReverseStep, x: Tensor, x0: Tensor, noise: Tensor | None = None, y: Tensor | None = None
) -> Tensor:
    """One reverse step, x_t -> x_{t-1}, all (B, C, h, w).

    Args:
        step: factors of the terms.
        x: state x_t.
        x0: the denoiser's prediction.
        noise: the noise, weighted; None where its factor is 0.
        y: where the chain started; None where its factor is 0.
    """
    shifted = step.state * x + step.prediction * x0
    if step.start:
        shifted = shifted + step.start * y
    return shifted + step.noise * noise if step.noise else shifted


class Chain(nn.Module):
    """Pre-upsampler, encoder, auxiliary network, T x denoiser and noise predictor, decoder.

    Sources: Yue et al., ResShift (2023), the chain without the optional networks. LPNSR (arXiv
    2603.21045): a noise predictor replaces Gaussian noise, a trained pre-upsampler the bicubic
    start. Zhang et al., UPSR (2025): an auxiliary network's estimate conditions the denoiser and
    weights the noise.

    Args:
        schedule: the diffusion schedule.
        pre_upsampler: makes the picture that the chain starts from.
        codec: from picture to latent and back.
        denoiser: predicts x_0.
        noise_predictor: predicts the distribution of the noise; left out, it is standard normal.
        auxiliary: estimates the picture; left out, the input conditions the denoiser, and all
            noise weighs the same.
    """

    def __init__(
        self,
        schedule: Schedule,
        pre_upsampler: nn.Module,
        codec: nn.Module,
        denoiser: nn.Module,
        noise_predictor: nn.Module | None = None,
        auxiliary: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.pre_upsampler = pre_upsampler
        self.codec = codec
        self.denoiser = denoiser
        self.noise_predictor = noise_predictor
        self.auxiliary = auxiliary

    def forward(self, lr: Tensor, noise: Tensor) -> Tensor:
        """Upscale.

        Args:
            lr: (B, 3, h, w) in [-1, 1], sides multiples of the preset's `multiple`.
            noise: (K, B, C, h, w) standard normal; draw 0 starts the chain, draw k feeds the
                k-th step that uses noise.

        Returns:
            (B, 3, 4h, 4w) in [-1, 1].
        """
        return self.codec.decode(self.reverse(self.encode(lr), lr, noise)).clamp(-1, 1)

    def replaced(self, **parts: Schedule | nn.Module | None) -> Chain:
        """A chain with other parts under the names of `__init__`; the rest is shared."""
        changed = copy.copy(self)
        changed._modules = dict(self._modules)
        for name, part in parts.items():
            setattr(changed, name, part)
        return changed

    def encode(self, lr: Tensor) -> Tensor:
        """Latent y of the pre-upsampled picture, (B, C, h, w)."""
        return self.codec.encode(self.pre_upsampler(lr))

    def reverse(self, y: Tensor, lr: Tensor, noise: Tensor) -> Tensor:
        """The reverse chain from latent y to latent x_0, (B, C, h, w).

        Raises:
            ValueError: there are more or fewer draws of noise than the schedule needs.
        """
        if len(noise) != self.schedule.draws:
            raise ValueError(f"the chain needs {self.schedule.draws} draws, not {len(noise)}")
        condition, weight = self.guidance(lr, y)
        draws = iter(noise)
        x = y + self.schedule.start_noise * weight * next(draws)
        for step in self.schedule.reverse_steps():
            x0 = self.predict_x0(step, x, condition)
            z = None
            if step.noise:
                z = weight * self.predict_noise(step, x, x0, condition, next(draws))
            x = residual_shift(step, x, x0, z, y)
        return x

    def guidance(self, lr: Tensor, y: Tensor) -> tuple[Tensor, Tensor | float]:
        """What conditions the networks, (B, c, h, w), and the weight of the noise, (B, C, h, w)."""
        if self.auxiliary is None:
            return lr, 1.0
        estimate = self.codec.encode(self.auxiliary(lr))
        return torch.cat([estimate, y], dim=1), self.noise_weight(estimate, y)

    def noise_weight(self, estimate: Tensor, y: Tensor) -> Tensor:
        """Weight of the noise, least where the estimate is equal to y, all (B, C, h, w)."""
        least, full = self.schedule.least_weight, self.schedule.full_difference
        uncertainty = ((estimate - y).abs() / (2 * full)).clamp(max=1)
        return least + (1 - least) * uncertainty

    def predict_x0(self, step: ReverseStep, x: Tensor, condition: Tensor) -> Tensor:
        """The denoiser on the normalised state, (B, C, h, w)."""
        modulation = self.denoiser.modulation(_timestep(step, x))
        return self.denoiser(torch.cat([x * step.input_scale, condition], dim=1), modulation)

    def predict_noise(
        self, step: ReverseStep, x: Tensor, x0: Tensor, condition: Tensor, eps: Tensor
    ) -> Tensor:
        """A sample of the noise predictor's Gaussian, (B, C, h, w); the state is not normalised.

        Without a noise predictor, or at a step that does without, it is the draw `eps`.
        """
        if self.noise_predictor is None or not step.predicted:
            return eps
        mean, logvar = self.noise_distribution(step, x, x0, condition)
        return mean + (logvar / 2).exp() * eps

    def noise_distribution(
        self, step: ReverseStep, x: Tensor, x0: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the predicted noise, each (B, C, h, w)."""
        modulation = self.noise_predictor.modulation(_timestep(step, x))
        parameters = self.noise_predictor(torch.cat([x, x0, condition], dim=1), modulation)
        mean, logvar = parameters.chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)


def _timestep(step: ReverseStep, x: Tensor) -> Tensor:
    """One timestep for the whole batch; its modulation broadcasts."""
    return torch.tensor([step.timestep], device=x.device)
