"""Small models, their checkpoints and an exported bundle."""

import functools
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lpnsr.export import pack, trace
from lpnsr.models import presets
from lpnsr.models.chain import Chain
from lpnsr.models.codecs import VQCodec, VQConfig
from lpnsr.models.presets import Network, Preset, module_of
from lpnsr.models.schedule import Schedule
from lpnsr.models.swin_unet import SwinUNet, SwinUNetConfig
from lpnsr.models.swinir import SwinIR, SwinIRConfig
from lpnsr.runtime.bundle import Bundle

SMALL, WIDE = (1, (16, 16)), (2, (16, 32))


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
    for role, network in preset.networks.items():
        save_file(module_of(chain, role).state_dict(), folder / network.files[0])
    return Model(preset, chain, folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The built-in model's networks with random weights."""
    return random_model(presets.get_preset("lpnsr-tiny"), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny, tmp_path_factory) -> Bundle:
    """`tiny`, exported for two shapes; do not change its files."""
    target = tmp_path_factory.mktemp("bundle") / "tiny"
    return pack.pack(tiny.chain, tiny.preset, [SMALL, WIDE], target)


@pytest.fixture(scope="session")
def micro(tmp_path_factory):
    """The same networks as in the full-size model, as small as they get, and two steps."""
    unet = partial(
        SwinUNetConfig,
        channels=16,
        multipliers=(1,),
        blocks=1,
        groups=8,
        swin_channels=16,
        head_channels=8,
        mlp_ratio=2,
    )
    swinir = SwinIRConfig(channels=16, depths=(2,), heads=2, features=8)
    autoencoder = VQConfig(channels=32, multipliers=(1, 1, 1), blocks=1, codes=64)
    builders = {
        "pre_upsampler": partial(SwinIR, swinir),
        "autoencoder": partial(VQCodec, autoencoder),
        "denoiser": partial(SwinUNet, unet(6, 3)),
        "noise_predictor": partial(SwinUNet, unet(9, 6)),
    }
    preset = Preset(
        name="micro",
        schedule=Schedule(steps=2),
        networks={
            role: Network(build, (f"{role}.safetensors",)) for role, build in builders.items()
        },
        latent_channels=3,
        multiple=8,
    )
    return random_model(preset, tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def micro_traces(micro):
    """Traces stages of `micro`, each once in a session."""

    @functools.cache
    def traced(stage, batch, tile):
        return trace.trace_stage(micro.chain, micro.preset, stage, batch, tile)

    return traced


@pytest.fixture
def quick(monkeypatch, micro, micro_traces):
    """`micro` as a preset that exports in a moment, because its traces are there."""
    monkeypatch.setitem(presets.PRESETS, "micro", micro.preset)
    monkeypatch.setattr(pack, "trace_stage", lambda chain, preset, *shape: micro_traces(*shape))
    return micro
