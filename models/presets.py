"""Presets: which networks a model family has, their sizes, their schedule, their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from pathlib import Path

from torch import nn

from lpnsr.models.atd import ATD, ATDConfig
from lpnsr.models.autoencoder_kl import AutoencoderKLConfig, KLDecoder, KLEncoder
from lpnsr.models.bicubic import Bicubic
from lpnsr.models.chain import Chain
from lpnsr.models.codecs import PixelCodec, VQCodec, VQConfig
from lpnsr.models.compact import CompactConfig, CompactUpsampler
from lpnsr.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from lpnsr.models.dm_sr import Decomposition, FixedTimestep, dm_sr
from lpnsr.models.families import Family, NoiseWeight, Stage, residual_shift
from lpnsr.models.pointwise import PointwiseConfig, PointwiseNet
from lpnsr.models.rrdbnet import RRDBNet, real_esrgan
from lpnsr.models.schedule import Direct, Recurrence, Refinement, Schedule, refinement, residual
from lpnsr.models.swin_unet import SwinUNet, SwinUNetConfig
from lpnsr.models.swinir import SwinIR, SwinIRConfig
from lpnsr.models.text_tower import TextTower, TextTowerConfig
from lpnsr.models.timestep_estimator import TimestepEstimator

BUILTIN_WEIGHTS = Path(__file__).resolve().parent / "builtin"


class PresetError(ValueError):
    """There is no preset of that name, or it has no such variant."""


@dataclass(frozen=True)
class Network:
    """One trained network of a preset.

    Attributes:
        build: makes the network with random weights.
        files: names its checkpoint file goes by, the preferred one first.
        source: where the file is published, or what makes it.
    """

    build: Callable[[], nn.Module]
    files: tuple[str, ...]
    source: str = ""


@dataclass(frozen=True)
class Tolerance:
    """How far an exported graph may be from the eager chain on random input.

    Attributes:
        x0: relative L2 of the final latent.
        close_share: least share of output values that are within 1/255 (of the range [0, 1]).
        code_share: least share of equal codes, where there is a codebook; float32 alone is held
            to it.
        category_share: least share of tokens in the same category, where a network has such.
        x0_fp16: `x0` for a graph that is computed in float16.
        psnr_fp16: least PSNR (dB, against a range of 2) of a picture decoded in float16 from the
            same codes; of the whole chain, if the latent is not quantised to codes.
        x0_bf16: `x0_fp16`, but in bfloat16.
        psnr_bf16: `psnr_fp16`, but in bfloat16.
    """

    x0: float = 1e-4
    close_share: float = 0.99
    code_share: float = 0.99
    category_share: float = 0.999
    x0_fp16: float = 5e-3
    psnr_fp16: float = 60.0
    x0_bf16: float = 3e-2
    psnr_bf16: float = 45.0


@dataclass(frozen=True)
class Preset:
    """A model as data.

    Attributes:
        name: what users call it.
        schedule: its diffusion schedule.
        networks: trained networks by role. Where stages of the family want others, `STAND_INS`
            take their place: without a `pre_upsampler` the start is bicubic, without an
            `autoencoder` the latent is the rearranged picture.
        latent_channels: channels of a latent.
        latent_side: sides of a latent relative to those of the input; 1/2 for an autoencoder that
            divides by 8, at a scale of 4.
        shapes: shape, but for the batch, of values that are neither pictures nor latents.
        multiple: input sides must be multiples of this.
        family: which stages the chain has, see `lpnsr.models.families`.
        weights: folder with the checkpoint files where they come with the package.
        scale: factor between input and output sides.
        tolerance: what export accepts.
        bf16: stages that are bf16 in mixed precision, because fp16 cannot hold what they
            compute; the others are fp16.
        color_limit: how far apart, in [-1, 1], colours of picture and input may be for the colour
            fix to take it for a drift that it corrects; what is further counts only so much.
    """

    name: str
    schedule: Recurrence
    networks: Mapping[str, Network]
    latent_channels: int
    multiple: int
    family: Family = residual_shift
    latent_side: float = 1.0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: Path | None = None
    scale: int = 4
    tolerance: Tolerance = field(default_factory=Tolerance)
    bf16: tuple[str, ...] = ("pre_upsampler",)
    color_limit: float = inf

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages of its chain, in order."""
        return self.family(self.networks)

    def build(self) -> Chain:
        """The eager chain with random weights, in evaluation mode."""
        networks = {role: network.build() for role, network in self.networks.items()}
        for role in (role for stage in self.stages for role in stage.networks):
            if role not in networks:
                networks[role] = STAND_INS[role](self)
        chain = Chain(self.schedule, self.stages, networks)
        return chain.eval().requires_grad_(False)

    def shape(self, value: str, batch: int, tile: tuple[int, int]) -> tuple[int, ...]:
        """Shape of a value of the chain (see `lpnsr.kernels.recurrence`).

        Args:
            value: its name.
            batch: number B of tiles.
            tile: (height, width) of the input.
        """
        height, width = tile
        if value in self.shapes:
            return batch, *self.shapes[value]
        if value == "lr":
            return batch, 3, height, width
        if value in ("picture", "sr"):
            return batch, 3, self.scale * height, self.scale * width
        sides = (int(self.latent_side * side) for side in tile)
        latent = batch, self.latent_channels, *sides
        return (self.draws, *latent) if value == "noise" else latent

    @property
    def draws(self) -> int:
        """Noise draws of the chain."""
        return self.schedule.draws


STAND_INS: Mapping[str, Callable[[Preset], nn.Module]] = {
    "pre_upsampler": lambda preset: Bicubic(preset.scale),
    "autoencoder": lambda preset: PixelCodec(preset.scale),
    "noise_weight": lambda preset: _noise_weight(residual(preset.schedule)),
    "decomposition": lambda preset: Decomposition(preset.schedule.steps),
    "timestep_estimator": lambda preset: _fixed_timestep(refinement(preset.schedule)),
}
"""Role -> what plays it without training."""


def _noise_weight(schedule: Schedule) -> NoiseWeight:
    return NoiseWeight(schedule.least_weight, schedule.full_difference)


def _fixed_timestep(schedule: Refinement) -> FixedTimestep:
    if schedule.timestep is None:
        raise TypeError("without a timestep estimator, this needs a timestep")
    return FixedTimestep(schedule.timestep)


def get_preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        PresetError: there is none.
    """
    if name not in PRESETS:
        raise PresetError(f"unknown preset '{name}'; there are: {', '.join(PRESETS)}")
    return PRESETS[name]


_VQGAN = Network(partial(VQCodec, VQConfig()), ("autoencoder_vq_f4.pth",))
_RESSHIFT_DENOISER = Network(
    partial(SwinUNet, SwinUNetConfig(in_channels=6, out_channels=3)),
    ("resshift_realsrx4_s4_v3.pth",),
)
_RESSHIFT_15_SCHEDULE = partial(Schedule, steps=15, min_noise_level=0.04)
_ATD = Network(partial(ATD, ATDConfig()), ("atd_real.pth",))
# State, estimate and y come in, each a picture rearranged to 48 channels.
_PIXEL_UNET = partial(SwinUNetConfig, 3 * 48, 48, features=128)
# The released schedule starts at sqrt(eta_1) = sqrt(0.001), whatever its stated noise level.
_UPSR_SCHEDULE = partial(
    Schedule,
    kappa=2.5,
    min_noise_level=2.5 * 0.001**0.5,
    power=0.2,
    data_variance=0.25,
    noise_variance=0.3,
    deterministic=True,
    least_weight=0.4,
    full_difference=0.1,
)


def _sd_turbo(build: Callable[[], nn.Module], folder: str, name: str) -> Network:
    """A network of SD-Turbo from the folder that diffusers reads."""
    files = tuple(f"{folder}/{name}{precision}.safetensors" for precision in ("", ".fp16"))
    return Network(build, files, source="stabilityai/sd-turbo")


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(
            name="lpnsr",
            schedule=Schedule(),
            networks={
                "pre_upsampler": Network(
                    partial(SwinIR, SwinIRConfig()),
                    ("003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",),
                ),
                "autoencoder": _VQGAN,
                "denoiser": _RESSHIFT_DENOISER,
                "noise_predictor": Network(
                    partial(SwinUNet, SwinUNetConfig(in_channels=9, out_channels=6)),
                    ("noise_predictor_v2.pth", "noise_predictor(v2).pth", "noise_predictor.pth"),
                ),
            },
            latent_channels=3,
            multiple=64,
        ),
        Preset(
            name="resshift",
            schedule=Schedule(),
            networks={"autoencoder": _VQGAN, "denoiser": _RESSHIFT_DENOISER},
            latent_channels=3,
            multiple=64,
        ),
        Preset(
            name="resshift-15",
            schedule=_RESSHIFT_15_SCHEDULE(),
            networks={
                "autoencoder": _VQGAN,
                "denoiser": replace(
                    _RESSHIFT_DENOISER,
                    files=("resshift_realsrx4_s15_v1.pth", "resshift_realsrx4_s15_v2.pth"),
                ),
            },
            latent_channels=3,
            multiple=64,
        ),
        Preset(
            # Distilled from resshift-15: its whole chain in one step.
            name="sinsr",
            schedule=_RESSHIFT_15_SCHEDULE(stride=15),
            networks={
                "autoencoder": _VQGAN,
                "denoiser": replace(_RESSHIFT_DENOISER, files=("SinSR_v1.pth",)),
            },
            latent_channels=3,
            multiple=64,
        ),
        Preset(
            name="upsr",
            schedule=_UPSR_SCHEDULE(steps=5),
            networks={
                "auxiliary": _ATD,
                "denoiser": Network(partial(SwinUNet, _PIXEL_UNET()), ("upsr.pth",)),
            },
            latent_channels=48,
            multiple=64,
        ),
        Preset(
            # The paper gives its steps and its 52.7 million parameters in all; the sizes that make
            # them up are ours, and so is the file name.
            name="upsr-light",
            schedule=_UPSR_SCHEDULE(steps=4),
            networks={
                "auxiliary": _ATD,
                "denoiser": Network(
                    partial(SwinUNet, _PIXEL_UNET(channels=96, mlp_ratio=5)), ("upsr_light.pth",)
                ),
            },
            latent_channels=48,
            multiple=64,
        ),
        Preset(
            name="dmsr",
            schedule=Refinement(),
            family=dm_sr,
            networks={
                "timestep_estimator": Network(
                    TimestepEstimator,
                    ("timestep_estimator.safetensors",),
                    source="lpnsr-train timestep-estimator",
                ),
                "encoder": Network(
                    partial(KLEncoder, AutoencoderKLConfig()),
                    ("dmsr_encoder.safetensors",),
                    source="lpnsr-train encoder",
                ),
                "denoiser": _sd_turbo(
                    partial(DiffusionUNet, DiffusionUNetConfig()),
                    "unet",
                    "diffusion_pytorch_model",
                ),
                "decoder": _sd_turbo(
                    partial(KLDecoder, AutoencoderKLConfig()), "vae", "diffusion_pytorch_model"
                ),
                "text_encoder": _sd_turbo(
                    partial(TextTower, TextTowerConfig()), "text_encoder", "model"
                ),
            },
            latent_channels=8,
            latent_side=0.5,
            shapes={"timestep": ()},
            multiple=16,
            bf16=(),
        ),
        Preset(
            name="real-esrgan",
            schedule=Direct(),
            family=real_esrgan,
            networks={"pre_upsampler": Network(RRDBNet, ("RealESRGAN_x4plus.pth",))},
            latent_channels=3,
            latent_side=4.0,
            multiple=8,
            bf16=(),
        ),
        Preset(
            name="lpnsr-tiny",
            # The pre-upsampler does the work. A quarter of a level of noise, and all states near y,
            # let the chain do no harm.
            schedule=Schedule(kappa=0.002, min_noise_level=0.9, etas_end=0.999),
            networks={
                "pre_upsampler": Network(
                    partial(CompactUpsampler, CompactConfig()), ("pre_upsampler.safetensors",)
                ),
                "denoiser": Network(
                    partial(PointwiseNet, PointwiseConfig(51, 48, limit=1 / 255)),
                    ("denoiser.safetensors",),
                ),
                "noise_predictor": Network(
                    partial(PointwiseNet, PointwiseConfig(99, 96)),
                    ("noise_predictor.safetensors",),
                ),
            },
            latent_channels=48,
            multiple=8,
            weights=BUILTIN_WEIGHTS,
            tolerance=Tolerance(psnr_bf16=40.0),
            color_limit=16 / 127.5,
        ),
    )
}
