"""The two stages of DM-SR's training: the timestep estimator, then the encoder.

Source: DM-SR (ICLR 2026), sections 3 and A.2. As there, latents are judged, and the discriminator
(equations 4 and 5) sees the small picture beside them. Here it is one of patches with the hinge
loss, where the paper has half a UNet and logarithms; and gradients and local spectra take the place
of an LPIPS of latents, which the paper takes from InvSR.
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lpnsr.models.autoencoder_kl import KLEncoder
from lpnsr.models.bicubic import Bicubic
from lpnsr.models.chain import Chain
from lpnsr.models.checkpoints import load_weights, read_weights
from lpnsr.models.diffusion_unet import DiffusionUNet
from lpnsr.models.dm_sr import Decomposition
from lpnsr.models.timestep_estimator import TIMESTEPS
from lpnsr.models.training.losses import perceptual_loss

MATCHING = 0.5
"""Weight of the term that matches distributions (equation 3)."""


def estimation(chain: Chain, distance: nn.Module, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """The timestep of enlarged pictures and what it should be, both divided by 500.

    It should be how far a picture is from the original (figure 7), at most 1.

    Args:
        chain: has a `timestep_estimator`.
        distance: of two pictures, 0 for equal ones; LPIPS in the paper.
        lr: (B, 3, h, w).
        hr: (B, 3, H, W).

    Returns:
        two tensors (B,).
    """
    picture = chain.network("pre_upsampler")(lr)
    with torch.no_grad():
        pairs = zip(picture.split(1), hr.split(1), strict=True)
        far = torch.stack([distance(*pair).mean() for pair in pairs])
    return chain.network("timestep_estimator")(picture) / TIMESTEPS, far.clamp(0, 1)


def encoding(chain: Chain, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The clean latent that the chain makes of small pictures, and what it should be.

    Args:
        chain: the networks, and a `published_encoder`.
        lr: (B, 3, h, w).
        hr: (B, 3, H, W).

    Returns:
        two latents, and the terms of equations 7 and 8 together, weighted.
    """
    picture = chain.network("pre_upsampler")(lr)
    with torch.no_grad():
        timestep = chain.network("timestep_estimator")(picture).float().round()
        clean = chain.network("published_encoder")(hr, torch.zeros_like(timestep)).float()
    noisy = chain.network("encoder")(picture, timestep)
    decomposition, unet = _decomposition(chain), denoiser(chain)
    told = decomposition.modulation(timestep.new_full((1,), decomposition.steps))
    state = decomposition.start(noisy)
    found, noise = decomposition(unet, state, timestep, *told).chunk(2, dim=1)
    predict = partial(_predict, chain)
    with torch.no_grad():
        anywhere = torch.randint(1, TIMESTEPS + 1, timestep.shape, device=lr.device)
        draw = torch.randn_like(clean)
        matching = predict(found, draw, anywhere) - predict(clean, draw, anywhere)
        own = predict(clean, noise, timestep) - noise
    steering = MATCHING * steer(noisy, matching) + steer(noisy, own)
    return found, clean, steering


def steer(values: Tensor, gradient: Tensor) -> Tensor:
    """A term whose gradient by `values` is `gradient`, divided by the number of values.

    It is half the mean square of the gradient.
    """
    return (values - (values - gradient).detach()).square().mean() / 2


def _predict(chain: Chain, clean: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
    """The noise that the denoiser finds in a clean latent after noise was added (equation 6)."""
    unet = denoiser(chain)
    return unet(_decomposition(chain).noisy(clean, noise, timestep), unet.modulation(timestep))


# The networks of a chain have no type of their own; those of DM-SR's are always these.


def denoiser(chain: Chain) -> DiffusionUNet:
    """The denoiser of a chain of DM-SR."""
    return cast(DiffusionUNet, chain.network("denoiser"))


def _decomposition(chain: Chain) -> Decomposition:
    return cast(Decomposition, chain.network("decomposition"))


def distance(device: torch.device) -> nn.Module:
    """What tells how far a picture is from the original: LPIPS, if it is there; says which."""
    term, note = perceptual_loss(device)
    tqdm.write(f"distance from the original: {note}", file=sys.stderr)
    return term


def use_bicubic(chain: Chain, scale: int) -> Chain:
    """The chain with its enlargement where its networks are."""
    device = next(chain.parameters()).device
    return chain.replaced(pre_upsampler=Bicubic(scale).to(device))


def start_from_published(chain: Chain, file: Path) -> None:
    """Let the encoder start as the published one, of which the chain keeps a frozen copy.

    Args:
        chain: gets a `published_encoder`.
        file: checkpoint of the whole autoencoder.

    Raises:
        CheckpointError: the file is missing, unreadable or of another network.
    """
    encoder = cast(KLEncoder, chain.network("encoder"))
    fresh = encoder.time_projections.state_dict(prefix="time_projections.")
    load_weights(encoder, {**read_weights(file), **fresh}, file, "encoder")
    chain.published_encoder = copy.deepcopy(encoder)
