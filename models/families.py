"""Families: what the stages of a chain are, as data.

A family is a function that takes the roles of the networks there are and gives the stages of the
chain. To add one:

1. Write the networks it lacks (`lpnsr.models`), with the state-dict keys of their checkpoints.
2. Write a function like `residual_shift` that lists its stages. A stage names its inputs and
   outputs; `lpnsr.kernels.recurrence` lists the names that have a meaning of their own. At the
   least, something has to make y of lr, x0 of scaled, and sr of state. Other names are the family's
   own (`Preset.shapes` has the shapes of those that are not latents).
3. Add a preset to `lpnsr.models.presets` with this family, its networks and its schedule.

Nothing else: tracing, both topologies, verification, the bundle and the runtime go by this data.
The tests hold a latent-diffusion family that is made so (`tests/latent_diffusion.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from lpnsr.kernels.recurrence import DENOISE, END, GUIDE, NOISE, START
from lpnsr.models.pointwise import PointwiseNet
from lpnsr.models.swin_unet import Affine, SwinUNet

if TYPE_CHECKING:
    from typing_extensions import Unpack

    PicturesAndTimestep = tuple[Unpack[tuple[Tensor, ...]], list[Affine]]

LOGVAR_RANGE = (-30.0, 20.0)

Denoiser = SwinUNet | PointwiseNet
"""What the chains of the presets denoise with."""


class Codec(Protocol):
    """An autoencoder, or what stands in for it."""

    def encode(self, *inputs: Tensor) -> Tensor:
        """A picture, and what else the autoencoder takes, -> a latent."""

    def decode(self, latent: Tensor) -> Tensor:
        """A latent -> a picture."""


class Codebook(Codec, Protocol):
    """An autoencoder whose latents are made of codes."""

    def nearest_codes(self, latent: Tensor) -> Tensor:
        """A latent -> the one of the nearest codes."""

    def decode_quantized(self, quantized: Tensor) -> Tensor:
        """A latent of codes -> a picture."""


@dataclass(frozen=True)
class Stage:
    """One stage of a chain: a call of one network, or of several, with what belongs to it.

    Attributes:
        name: what it is called in graphs, files and reports.
        phase: when it is called, one of `lpnsr.kernels.recurrence.PHASES`. What a stage of the
            phase "picture" gives, one value (B, ...) for each tile, is averaged over all tiles of
            a picture, so that they agree; for the graphs of the other stages it is an input.
        networks: roles of the networks that it calls.
        inputs: names of the values that it takes.
        outputs: names of the values that it gives.
        compute: makes the outputs, one tensor or several, of the networks, followed by the inputs,
            followed, if `folded`, by what the timestep becomes.
        folded: whether it depends on the step's timestep: what the method `modulation` of its first
            network makes of a timestep (1,), tensors in any nesting, is computed at export and is
            a constant of the graph. A timestep that another stage computes is an input like others.
        precise: whether it decides something that has near-ties, and so stays float32 whatever the
            other stages compute in.
        graph: name of the stage in whose graph it is if each has a graph of its own.
        prepare: lets one of the networks keep what it needs of another, whose weights are loaded;
            takes the networks (see `lpnsr.models.chain.Chain.prepare`).
    """

    name: str
    phase: str
    networks: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    compute: Callable[..., Tensor | tuple[Tensor, ...]]
    folded: bool = False
    precise: bool = False
    graph: str = ""
    prepare: Callable[..., None] | None = None

    def __call__(self, networks: Sequence[nn.Module], *arguments: object) -> tuple[Tensor, ...]:
        """The outputs.

        Args:
            networks: in the order of `networks`.
            arguments: the inputs, followed, if `folded`, by what the timestep becomes.
        """
        outputs = self.compute(*networks, *arguments)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


Family = Callable[[Collection[str]], tuple[Stage, ...]]
"""Roles of a preset's networks -> its stages, in the order of the chain."""


def residual_shift(roles: Collection[str]) -> tuple[Stage, ...]:
    """Residual shifting: from a rough picture of the output's size to a sharp one.

    Sources: Yue et al., ResShift (2023), the chain without the optional networks. LPNSR (arXiv
    2603.21045): a noise predictor replaces Gaussian noise, a trained pre-upsampler the bicubic
    start. Zhang et al., UPSR (2025): an auxiliary network's estimate conditions the denoiser and
    weights the noise.

    Args:
        roles: `denoiser` and, optionally, `pre_upsampler`, `autoencoder` (one with a codebook),
            `auxiliary` and `noise_predictor`.
    """
    condition = ("estimate", "y") if "auxiliary" in roles else ("lr",)
    coded = "autoencoder" in roles
    latent = "quantized" if coded else "state"
    decoding: Callable[..., Tensor] = _decode_codes if coded else decode
    stages = [
        Stage("pre_upsampler", START, ("pre_upsampler",), ("lr",), ("picture",), apply),
        Stage("encoder", START, ("autoencoder",), ("picture",), ("y",), encode),
        Stage(
            name="auxiliary",
            phase=GUIDE,
            networks=("auxiliary", "autoencoder", "noise_weight"),
            inputs=("lr", "y"),
            outputs=("estimate", "weight"),
            compute=_estimate,
            precise=True,
        ),
        Stage(
            name="denoiser",
            phase=DENOISE,
            networks=("denoiser",),
            inputs=("scaled", *condition),
            outputs=("x0",),
            compute=denoise,
            folded=True,
        ),
        Stage(
            name="noise_predictor",
            phase=NOISE,
            networks=("noise_predictor",),
            inputs=("state", "x0", *condition),
            outputs=("mean", "logvar"),
            compute=_predict_noise,
            folded=True,
        ),
        Stage(
            name="quantizer",
            phase=END,
            networks=("autoencoder",),
            inputs=("state",),
            outputs=("quantized",),
            compute=_nearest_codes,
            precise=True,
            graph="decoder",
        ),
        Stage("decoder", END, ("autoencoder",), (latent,), ("sr",), decoding),
    ]
    needs = {
        "auxiliary": "auxiliary",
        "noise_predictor": "noise_predictor",
        "quantizer": "autoencoder",
    }
    return tuple(stage for stage in stages if needs.get(stage.name, "denoiser") in roles)


class NoiseWeight(nn.Module):
    """Weight of the noise, least where an estimate is equal to y.

    Source: Zhang et al., UPSR (2025), section 3.2.

    Args:
        least: the weight there.
        full_difference: half the difference of the two at which the weight reaches 1.
    """

    def __init__(self, least: float, full_difference: float) -> None:
        super().__init__()
        self.least, self.full_difference = least, full_difference

    def forward(self, estimate: Tensor, y: Tensor) -> Tensor:
        """All (B, C, h, w)."""
        uncertainty = ((estimate - y).abs() * (0.5 / self.full_difference)).clamp(max=1)
        return self.least + (1 - self.least) * uncertainty


def denoise(unet: nn.Module, *inputs: Unpack[PicturesAndTimestep]) -> Tensor:
    """A network on its pictures side by side, and what the timestep becomes."""
    *pictures, modulation = inputs
    return unet(torch.cat(pictures, dim=1), modulation)


def _predict_noise(unet: nn.Module, *inputs: Unpack[PicturesAndTimestep]) -> tuple[Tensor, Tensor]:
    mean, logvar = denoise(unet, *inputs).chunk(2, dim=1)
    return mean, logvar.clamp(*LOGVAR_RANGE)


def apply(network: nn.Module, *inputs: Tensor) -> Tensor:
    """A network on its inputs."""
    return network(*inputs)


def encode(codec: Codec, *inputs: Tensor) -> Tensor:
    """The method of this name on its inputs."""
    return codec.encode(*inputs)


def _estimate(
    network: nn.Module, codec: Codec, weigh: NoiseWeight, lr: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    estimate = codec.encode(network(lr))
    return estimate, weigh(estimate, y)


def _nearest_codes(codec: Codebook, latent: Tensor) -> Tensor:
    return codec.nearest_codes(latent)


def _decode_codes(codec: Codebook, codes: Tensor) -> Tensor:
    return codec.decode_quantized(codes).clamp(-1, 1)


def decode(codec: Codec, latent: Tensor) -> Tensor:
    """The method of this name, limited to [-1, 1]."""
    return codec.decode(latent).clamp(-1, 1)
