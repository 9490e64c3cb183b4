"""The whole chain in eager PyTorch: the reference that every exported graph is held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lpnsr.models.schedule import ReverseStep, Schedule

LOGVAR_RANGE = (-30.0, 20.0)


def residual_shift(step: ReverseStep, x: Tensor, x0: Tensor, noise: Tensor | None) -> Tensor:
    """One reverse step, x_t -> x_{t-1} (ResShift, eq. 7), all (B, C, h, w).

    Args:
        step: coefficients.
        x: state x_t.
        x0: the denoiser's prediction.
        noise: None at the last step, which is the prediction itself.
    """
    if noise is None:
        return x0
    return step.state * x + step.prediction * x0 + step.noise * noise


class Chain(nn.Module):
    """Pre-upsampler, encoder, T x denoiser, (T - 1) x noise predictor, decoder.

    Source: LPNSR (arXiv 2603.21045): a learned noise predictor replaces the Gaussian noise of
    ResShift, and a pre-upsampler replaces its bicubic start.
    """

    def __init__(
        self,
        schedule: Schedule,
        pre_upsampler: nn.Module,
        codec: nn.Module,
        denoiser: nn.Module,
        noise_predictor: nn.Module,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.pre_upsampler = pre_upsampler
        self.codec = codec
        self.denoiser = denoiser
        self.noise_predictor = noise_predictor

    def forward(self, lr: Tensor, noise: Tensor) -> Tensor:
        """Upscale.

        Args:
            lr: (B, 3, h, w) in [-1, 1], sides multiples of the preset's `multiple`.
            noise: (K, B, C, h, w) standard normal; draw 0 starts the chain, draw k feeds the
                noise predictor's k-th call.

        Returns:
            (B, 3, 4h, 4w) in [-1, 1].
        """
        return self.codec.decode(self.reverse(self.encode(lr), lr, noise)).clamp(-1, 1)

    def encode(self, lr: Tensor) -> Tensor:
        """Latent y of the pre-upsampled picture, (B, C, h, w)."""
        return self.codec.encode(self.pre_upsampler(lr))

    def reverse(self, y: Tensor, lr: Tensor, noise: Tensor) -> Tensor:
        """The reverse chain from latent y to latent x_0, (B, C, h, w)."""
        x = y + self.schedule.start_noise * noise[0]
        for step, eps in zip(self.schedule.reverse_steps(), [*noise[1:], None], strict=True):
            x0 = self.predict_x0(step, x, lr)
            z = None if eps is None else self.predict_noise(step, x, x0, lr, eps)
            x = residual_shift(step, x, x0, z)
        return x

    def predict_x0(self, step: ReverseStep, x: Tensor, lr: Tensor) -> Tensor:
        """The denoiser on the normalised state, (B, C, h, w)."""
        modulation = self.denoiser.modulation(_timestep(step, x))
        return self.denoiser(torch.cat([x * step.input_scale, lr], dim=1), modulation)

    def predict_noise(
        self, step: ReverseStep, x: Tensor, x0: Tensor, lr: Tensor, eps: Tensor
    ) -> Tensor:
        """A sample of the noise predictor's Gaussian, (B, C, h, w); the state is not normalised."""
        mean, logvar = self.noise_distribution(step, x, x0, lr)
        return mean + (logvar / 2).exp() * eps

    def noise_distribution(
        self, step: ReverseStep, x: Tensor, x0: Tensor, lr: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the predicted noise, each (B, C, h, w)."""
        modulation = self.noise_predictor.modulation(_timestep(step, x))
        parameters = self.noise_predictor(torch.cat([x, x0, lr], dim=1), modulation)
        mean, logvar = parameters.chunk(2, dim=1)
        return mean, logvar.clamp(*LOGVAR_RANGE)


def _timestep(step: ReverseStep, x: Tensor) -> Tensor:
    """One timestep for the whole batch; its modulation broadcasts."""
    return torch.tensor([step.timestep], device=x.device)
