"""A family that the package does not know: one step of latent diffusion, in miniature.

A VAE divides the picture of the output's size by 8, so a latent has half of the input's sides. Its
encoder and a UNet with cross-attention to a constant context are told a timestep that a network of
its own estimates from the picture. Nothing is drawn. The layout is that of DM-SR (ICLR 2026): the
UNet predicts the noise in a latent, of which x_0 follows.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lpnsr.kernels.recurrence import DENOISE, END, PICTURE, START
from lpnsr.models.families import Stage, apply, decode, encode
from lpnsr.models.presets import Network, Preset, Tolerance
from lpnsr.models.schedule import Refinement

WIDTH, LATENT, TIMESTEPS = 16, 4, 20


class TimestepEstimator(nn.Module):
    """How degraded a picture is: the expectation of a distribution over timesteps."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, WIDTH, 3, stride=2, padding=1)
        self.head = nn.Linear(WIDTH, TIMESTEPS)

    def forward(self, lr):
        """(B, 3, h, w) -> (B,)."""
        pooled = F.silu(self.features(lr)).mean((2, 3))
        steps = torch.arange(TIMESTEPS, dtype=torch.float32, device=lr.device)
        return (self.head(pooled).softmax(-1) * steps).sum(-1)


class VAE(nn.Module):
    """Autoencoder with factor 8, whose encoder is told the timestep."""

    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.time = nn.ModuleList(nn.Linear(1, WIDTH) for _ in range(3))
        self.down = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, 2, 1) for _ in range(3))
        self.quant_conv = nn.Conv2d(WIDTH, LATENT, 1)
        self.post_quant_conv = nn.Conv2d(LATENT, WIDTH, 1)
        self.up = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(3))
        self.norm = nn.GroupNorm(4, WIDTH)
        self.conv_out = nn.Conv2d(WIDTH, 3, 3, padding=1)

    def encode(self, picture, timestep):
        """(B, 3, 8h, 8w) and (B,) -> (B, 4, h, w)."""
        x = self.conv_in(picture)
        for time, down in zip(self.time, self.down, strict=True):
            told = time(timestep[:, None] / TIMESTEPS)
            x = F.silu(down(x + told[:, :, None, None]))
        return self.quant_conv(x)

    def decode(self, latent):
        """(B, 4, h, w) -> (B, 3, 8h, 8w)."""
        x = self.post_quant_conv(latent)
        for up in self.up:
            x = F.silu(up(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.conv_out(self.norm(x))


class UNet(nn.Module):
    """Predicts the noise in a latent; two levels, cross-attention to a constant context."""

    def __init__(self):
        super().__init__()
        self.register_buffer("context", torch.randn(1, 7, 12))
        self.time = nn.Linear(WIDTH, WIDTH)
        self.conv_in = nn.Conv2d(LATENT, WIDTH, 3, padding=1)
        self.down = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.to_q = nn.Linear(WIDTH, WIDTH)
        self.to_k = nn.Linear(12, WIDTH)
        self.to_v = nn.Linear(12, WIDTH)
        self.conv_out = nn.Conv2d(2 * WIDTH, LATENT, 3, padding=1)

    def predict_noise(self, latent, timestep):
        """(B, 4, h, w) and (B,) -> (B, 4, h, w)."""
        frequencies = torch.exp(torch.arange(WIDTH // 2, device=latent.device) / -2.0)
        angles = timestep[:, None] * frequencies
        told = self.time(torch.cat([angles.cos(), angles.sin()], dim=-1))
        x = F.silu(self.conv_in(latent) + told[:, :, None, None])
        h = self.down(x)
        tokens = h.flatten(2).transpose(1, 2)
        key, value = self.to_k(self.context), self.to_v(self.context)
        scores = self.to_q(tokens) @ key.transpose(1, 2) * WIDTH**-0.5
        tokens = tokens + scores.softmax(dim=-1) @ value
        h = tokens.transpose(1, 2).unflatten(2, h.shape[2:])
        h = F.interpolate(h, scale_factor=2.0, mode="nearest")
        return self.conv_out(torch.cat([x, F.silu(h)], dim=1))

    def forward(self, latent, timestep):
        """The clean latent, x_0."""
        angle = (timestep / TIMESTEPS * (math.pi / 4))[:, None, None, None]
        noise = self.predict_noise(latent, timestep)
        return (latent - angle.sin() * noise) / angle.cos()


def stages(roles):
    """What the family consists of."""
    return (
        Stage("estimator", PICTURE, ("estimator",), ("lr",), ("timestep",), apply),
        Stage("upsampler", START, ("pre_upsampler",), ("lr",), ("picture",), apply),
        Stage("encoder", START, ("autoencoder",), ("picture", "timestep"), ("y",), encode),
        Stage("denoiser", DENOISE, ("denoiser",), ("scaled", "timestep"), ("x0",), apply),
        Stage("decoder", END, ("autoencoder",), ("state",), ("sr",), decode),
    )


PRESET = Preset(
    name="micro-latent-diffusion",
    schedule=Refinement(),
    family=stages,
    networks={
        "estimator": Network(TimestepEstimator, ("estimator.safetensors",)),
        "autoencoder": Network(VAE, ("autoencoder.safetensors",)),
        "denoiser": Network(UNet, ("denoiser.safetensors",)),
    },
    latent_channels=LATENT,
    latent_side=0.5,
    shapes={"timestep": ()},
    multiple=8,
    tolerance=Tolerance(psnr_bf16=30.0, x0_bf16=0.1),
)
