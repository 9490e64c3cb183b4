"""The stages of training: what each network is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lpnsr.models.bicubic import Bicubic
from lpnsr.models.chain import Chain
from lpnsr.models.color_fix import correct
from lpnsr.models.families import Codec, Denoiser, denoise
from lpnsr.models.pointwise import PointwiseNet
from lpnsr.models.presets import Preset
from lpnsr.models.schedule import residual
from lpnsr.models.swin_unet import Affine, SwinUNet
from lpnsr.models.training import diffusion_objectives
from lpnsr.models.training.config import DIFFUSION_STAGES, StageConfig
from lpnsr.models.training.discriminator import PatchDiscriminator
from lpnsr.models.training.errors import TrainingError
from lpnsr.models.training.losses import log_error

DETAIL_GAIN = 8.0
"""What amplifies a state's detail to about the size of the picture."""

LEAST_LOGVAR = -6.0


@dataclass(frozen=True)
class Objective:
    """One stage.

    Attributes:
        network: what is trained.
        predict: (lr, hr) -> an estimate and what it should be, of one shape, and further terms
            of the loss, if the stage has any.
        picture: an estimate -> the picture (B, 3, H, W).
        preview: lr -> the picture that the chain makes so far.
        latent: channels of an estimate that is judged itself, a latent beside the small picture,
            instead of the picture that is made of it; else 0.
    """

    network: nn.Module
    predict: Callable[[Tensor, Tensor], tuple[Tensor, ...]]
    picture: Callable[[Tensor], Tensor]
    preview: Callable[[Tensor], Tensor]
    latent: int = 0

    def discriminator(self, width: int) -> PatchDiscriminator:
        """What tells estimates from what they should be.

        Args:
            width: of its first layer.
        """
        if self.latent:
            return PatchDiscriminator(width, layers=1, inputs=self.latent + 3)
        return PatchDiscriminator(width)

    def judged(self, found: Tensor, expected: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
        """What the perceptual term compares: two pictures, or two latents, float32."""
        return (found.float(), expected) if self.latent else (self.picture(found).float(), hr)

    def shown(self, judged: Tensor, lr: Tensor) -> Tensor:
        """What the discriminator sees of it."""
        if not self.latent:
            return judged
        return torch.cat([judged, F.interpolate(lr, judged.shape[2:], mode="area")], dim=1)


def make_objective(name: str, chain: Chain, preset: Preset, config: StageConfig) -> Objective:
    """The stage that trains the network `name` of `chain`.

    Args:
        name: one of `STAGES` or `DIFFUSION_STAGES`.
        chain: the networks; all but the trained one should be trained and frozen.
        preset: whose chain it is.
        config: of the stage.

    Raises:
        TrainingError: the stage has no picture for the terms that judge one.
    """
    if name in DIFFUSION_STAGES:
        return _diffusion_stage(name, chain, preset, config)
    network = chain.network(name)
    if name == "pre_upsampler":
        return Objective(
            network, partial(_upscale, network, preset, config), nn.Identity(), network
        )
    if config.start == "bicubic":
        bicubic = Bicubic(preset.scale).to(next(network.parameters()).device)
        chain = chain.replaced(pre_upsampler=bicubic)
    if config.checkpoint_activations:
        for role in filter(chain.has, ("denoiser", "noise_predictor", "autoencoder")):
            _checkpoint_activations(chain.network(role))
    if config.straight_through:
        chain = chain.replaced(denoiser=_StraightThrough(chain.denoiser))
    if name == "denoiser":
        chain = chain.replaced(noise_predictor=None)
        objective = _denoise_own if config.states == "chain" else _denoise
        return Objective(
            network, partial(objective, chain), chain.codec.decode, partial(_whole_chain, chain)
        )
    return Objective(
        network,
        partial(
            _run_chain,
            chain,
            config.steps or (preset.schedule.steps,),
            preset.color_limit,
            config,
        ),
        nn.Identity(),
        partial(_whole_chain, chain),
    )


def _diffusion_stage(name: str, chain: Chain, preset: Preset, config: StageConfig) -> Objective:
    network, device = chain.network(name), next(chain.parameters()).device
    chain = diffusion_objectives.use_bicubic(chain, preset.scale)
    if name == "timestep_estimator":
        if config.perceptual or config.adversarial:
            raise TrainingError(
                "the timestep_estimator makes no picture that could be judged: "
                "set perceptual = 0 and adversarial = 0"
            )
        distance = diffusion_objectives.distance(device)
        predict = partial(diffusion_objectives.estimation, chain, distance)
        return Objective(network, predict, nn.Identity(), chain.network("pre_upsampler"))
    chain.prepare()  # here and not under autocast, as it is kept
    unet = diffusion_objectives.denoiser(chain)
    decoder = chain.network("decoder")
    if config.checkpoint_activations:
        for module in (unet, network):
            _checkpoint_activations(module)
    return Objective(
        network,
        partial(diffusion_objectives.encoding, chain),
        cast(Codec, decoder).decode,
        lambda lr: chain(lr, lr.new_empty(0)),
        latent=unet.config.latent_channels,
    )


class _StraightThrough(nn.Module):
    """A denoiser whose gradient is that of returning the state (Bengio et al., 2013)."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.modulation = denoiser.modulation

    def forward(self, x: Tensor, modulation: list[Affine]) -> Tensor:
        with torch.no_grad():
            x0 = self.denoiser(x, modulation)
        state = x[:, : self.denoiser.config.out_channels]
        return x0 + state - state.detach()


def start_from_zero(network: nn.Module) -> None:
    """Let the last convolution of a fresh denoiser or noise predictor put out zeros.

    A denoiser with a skip then returns its state, and a noise predictor standard normal noise.
    """
    if isinstance(network, SwinUNet | PointwiseNet):
        _, last = _ends(network)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.get_parameter("bias"))


def start_with_detail(network: SwinUNet | PointwiseNet, scale: int) -> None:
    """Let a fresh noise predictor see the state's detail, and add next to no noise by chance.

    For a state that is a rearranged picture. What there is to mend in it, noise above all, is small
    beside the picture itself: from an ordinary start, a network takes very long to see it at all.
    Channel c of the first convolution starts as state channel c without the mean over the block of
    its colour, amplified.

    Args:
        network: the state comes first among its inputs; it puts out means, then log-variances.
        scale: side of a block of pixels that make one position.
    """
    first, last = _ends(network)
    block = scale * scale
    mean = torch.block_diag(*[torch.full((block, block), 1 / block)] * 3)
    detail = DETAIL_GAIN * (torch.eye(3 * block) - mean)[: first.out_channels]
    with torch.no_grad():
        first.weight[: len(detail)] = 0
        first.get_parameter("bias")[: len(detail)] = 0
        centre = first.kernel_size[0] // 2
        first.weight[: len(detail), : 3 * block, centre, centre] = detail
        last.get_parameter("bias")[3 * block :] = LEAST_LOGVAR


def _ends(network: SwinUNet | PointwiseNet) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The first and the last convolution."""
    if isinstance(network, PointwiseNet):
        return network.first, network.last
    last = network.conv_last if network.config.features else network.out[-1]
    # What a container holds has no type.
    first = cast(nn.ModuleList, network.input_blocks[0])[0]
    return cast(nn.Conv2d, first), cast(nn.Conv2d, last)


def _upscale(
    network: nn.Module, preset: Preset, config: StageConfig, lr: Tensor, hr: Tensor
) -> tuple[Tensor, ...]:
    """The pre-upsampler's picture, and what it adds to the error of bicubic interpolation."""
    sr = network(lr)
    if config.color_fix:
        sr = correct(sr, lr, preset.color_limit)
    if not config.no_harm:
        return sr, hr
    bicubic = F.interpolate(lr, hr.shape[2:], mode="bicubic")
    excess = log_error(sr.float(), hr) - log_error(bicubic, hr)
    return sr, hr, config.no_harm * F.relu(excess).mean()


def _denoise(chain: Chain, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """ResShift's objective: x_0 from x_t = x_0 + eta·(y - x_0) + kappa·sqrt(eta)·eps, any t.

    Where an auxiliary network weights the noise, eps is weighted (UPSR, section 3.2).
    """
    schedule = residual(chain.schedule)
    steps = schedule.reverse_steps()[::-1]
    y, x0, condition, weight = _latents(chain, lr, hr)
    t = torch.randint(len(steps), (len(lr), 1, 1, 1), device=lr.device)
    eta = torch.tensor(schedule.etas, dtype=torch.float32, device=lr.device)[t]
    noise = torch.randn_like(x0) if weight is None else weight * torch.randn_like(x0)
    x = x0 + eta * (y - x0) + schedule.kappa * eta.sqrt() * noise
    scale = torch.tensor([step.input_scale for step in steps], device=lr.device)[t]
    modulation = chain.denoiser.modulation(t.flatten())
    return denoise(chain.denoiser, x * scale, *condition, modulation), x0


def _denoise_own(chain: Chain, lr: Tensor, hr: Tensor) -> tuple[Tensor, Tensor]:
    """x_0 from a state that a chain of random length reaches by itself, with Gaussian noise.

    States made of the true x_0 show more of it than a small network will ever predict: it learns to
    trust them, and the chain then sharpens its own guesses.
    """
    length = int(torch.randint(1, chain.schedule.steps + 1, (), device="cpu"))
    done = int(torch.randint(length, (), device="cpu"))
    chain = chain.replaced(schedule=chain.schedule.truncated(length))
    steps = chain.updates()[: done + 1]
    y, x0, condition, _ = _latents(chain, lr, hr)
    with torch.no_grad():
        noise = torch.randn(sum(step.noise > 0 for step in steps), *y.shape, device=lr.device)
        x = chain.reverse(y, lr, noise, done)
    step = chain.updates()[done + 1]
    return chain.predict_x0(step, x, *condition), x0


@torch.no_grad()
def _latents(
    chain: Chain, lr: Tensor, hr: Tensor
) -> tuple[Tensor, Tensor, list[Tensor], Tensor | None]:
    """The latents y and x_0, what the denoiser sees beside a state, and the noise's weight."""
    y, x0 = chain.encode(lr).float(), chain.codec.encode(hr).float()
    # An auxiliary network sorts tokens, which wants float32. Shapes alone know no autocast.
    device = lr.device.type if lr.device.type != "meta" else "cpu"
    with torch.autocast(device, enabled=False):
        return y, x0, *chain.condition(lr, y)


def _run_chain(
    chain: Chain,
    lengths: tuple[int, ...],
    limit: float,
    config: StageConfig,
    lr: Tensor,
    hr: Tensor,
) -> tuple[Tensor, Tensor]:
    """LPNSR, Algorithm 1: the picture at the end of the chain, with gradients through all of it."""
    length = lengths[int(torch.randint(len(lengths), (), device="cpu"))]
    shortened = chain.replaced(schedule=chain.schedule.truncated(length))

    def picture(latent: Tensor) -> Tensor:
        decoded = chain.codec.decode(latent)
        return correct(decoded, lr, limit) if config.color_fix else decoded

    with torch.no_grad():
        y = chain.encode(lr).float()
        if config.target == "noise_free":
            hr = picture(chain.predict_x0(chain.schedule.reverse_steps()[-1], y, lr)).float()
    noise = torch.randn(shortened.schedule.draws, *y.shape, device=lr.device)
    return picture(shortened.reverse(y, lr, noise)), hr


def _whole_chain(chain: Chain, lr: Tensor) -> Tensor:
    """The chain without chance: all draws are zero."""
    y = chain.encode(lr).float()
    return chain.codec.decode(chain.reverse(y, lr, y.new_zeros(chain.schedule.draws, *y.shape)))


def _checkpoint_activations(module: nn.Module) -> None:
    """Keep only the inputs of a network for the way back, and compute the rest again."""
    for name in ("forward", "decode"):
        if callable(method := getattr(module, name, None)) and name in vars(type(module)):
            setattr(module, name, partial(checkpoint, method, use_reentrant=False))
