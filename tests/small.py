"""Small models with random weights."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from lpnsr.models.atd import ATD, ATDConfig
from lpnsr.models.chain import Chain
from lpnsr.models.codecs import VQCodec, VQConfig
from lpnsr.models.presets import Network, Preset, get_preset
from lpnsr.models.schedule import Schedule
from lpnsr.models.swin_unet import SwinUNet, SwinUNetConfig
from lpnsr.models.swinir import SwinIR, SwinIRConfig


@dataclass(frozen=True)
class Model:
    """A preset and its chain; `weights` is a folder with its checkpoints."""

    preset: Preset
    chain: Chain
    weights: Path


def random_model(preset, folder):
    """All parameters random, biases and norms too, so that none is equal to another or to zero."""
    torch.manual_seed(0)
    chain = preset.build()
    for parameter in chain.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    chain.prepare()
    for role, network in preset.networks.items():
        file = folder / network.files[0]
        file.parent.mkdir(exist_ok=True)
        save_file(chain.network(role).state_dict(), file)
    return Model(preset, chain, folder)


# The same networks as in the full-size model, as small as they get, and two steps.
UNET = partial(
    SwinUNetConfig,
    channels=16,
    multipliers=(1,),
    blocks=1,
    groups=8,
    swin_channels=16,
    head_channels=8,
    mlp_ratio=2,
)
_swinir = SwinIRConfig(channels=16, depths=(2,), heads=2, features=8)
AUTOENCODER = VQConfig(channels=32, multipliers=(1, 1, 1), blocks=1, codes=64)
_builders = {
    "pre_upsampler": partial(SwinIR, _swinir),
    "autoencoder": partial(VQCodec, AUTOENCODER),
    "denoiser": partial(SwinUNet, UNET(6, 3)),
    "noise_predictor": partial(SwinUNet, UNET(9, 6)),
}
MICRO = Preset(
    name="micro",
    schedule=Schedule(steps=2),
    networks={role: Network(build, (f"{role}.safetensors",)) for role, build in _builders.items()},
    latent_channels=3,
    multiple=8,
)

# Networks with attention on a latent that is a rearranged picture.
_tiny_unet = partial(
    SwinUNetConfig, multipliers=(1, 1), blocks=1, groups=8, head_channels=16, mlp_ratio=2
)
_tiny_builders = {
    "pre_upsampler": partial(
        SwinIR, SwinIRConfig(channels=48, depths=(2, 2), heads=3, features=24)
    ),
    "denoiser": partial(SwinUNet, _tiny_unet(51, 48, channels=48, swin_channels=48, skip=True)),
    "noise_predictor": partial(
        SwinUNet,
        _tiny_unet(99, 96, channels=64, multipliers=(1,), swin_channels=32, groups=0),
    ),
}
TINY = Preset(
    name="tiny",
    schedule=Schedule(kappa=0.012, min_noise_level=0.9, etas_end=0.999),
    networks={
        role: Network(build, (f"{role}.safetensors",)) for role, build in _tiny_builders.items()
    },
    latent_channels=48,
    multiple=16,
)

# UPSR, five steps.
_auxiliary = ATDConfig(
    channels=16,
    depths=(2,),
    heads=2,
    window=8,
    entries=8,
    group=32,
    similarity_channels=4,
    kernel=3,
)
UPSR = Preset(
    name="micro-upsr",
    schedule=get_preset("upsr").schedule,
    networks={
        "auxiliary": Network(partial(ATD, _auxiliary), ("auxiliary.safetensors",)),
        "denoiser": Network(
            partial(SwinUNet, UNET(144, 48, features=8)), ("denoiser.safetensors",)
        ),
    },
    latent_channels=48,
    multiple=8,
)
