"""A preset of a few channels, photographs of a few pixels, and the command on them."""

import shutil
from functools import partial

import numpy as np
import pytest
from PIL import Image

from lpnsr.models import presets
from lpnsr.models.presets import Network, Preset
from lpnsr.models.schedule import Schedule
from lpnsr.models.swin_unet import SwinUNet, SwinUNetConfig
from lpnsr.models.swinir import SwinIR, SwinIRConfig
from lpnsr.models.training import cli
from lpnsr.models.training.config import STAGES

UNET = partial(
    SwinUNetConfig,
    channels=4,
    multipliers=(1, 1),
    blocks=1,
    groups=2,
    swin_channels=4,
    head_channels=4,
    mlp_ratio=1,
)
TOY = Preset(
    name="toy",
    schedule=Schedule(steps=3, kappa=0.05),
    networks={
        "pre_upsampler": Network(
            partial(SwinIR, SwinIRConfig(channels=4, depths=(2,), heads=1, features=4)),
            ("pre_upsampler.safetensors",),
        ),
        "denoiser": Network(partial(SwinUNet, UNET(51, 48, skip=True)), ("denoiser.safetensors",)),
        "noise_predictor": Network(
            partial(SwinUNet, UNET(99, 96)), ("noise_predictor.safetensors",)
        ),
    },
    latent_channels=48,
    multiple=16,
)
STAGE = """
[{name}]
iterations = {iterations}
batch = 2
crop = 16
learning_rate = {learning_rate}
start = "pre_upsampler"
adversarial_start = {judged}
judge_channels = 4
save_every = 2
"""


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """The preset `toy`, for this test."""
    monkeypatch.setitem(presets.PRESETS, "toy", TOY)
    return TOY


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of two photographs of 128x112 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    y, x = np.mgrid[:112, :128]
    for name, period in (("waves", 9.0), ("ripples", 5.0)):
        waves = [np.sin((x + k * y) / period) * np.cos(y / (k + 3)) for k in range(3)]
        picture = np.stack(waves, axis=-1) * 100 + 128
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def configured(folder, iterations=4, learning_rate=1e-3, extra="", preset="toy", judged=1):
    """Write a configuration of `toy`; returns its path."""
    values = {"iterations": iterations, "learning_rate": learning_rate, "judged": judged}
    tables = [STAGE.format(name=name, **values) for name in STAGES]
    file = folder / "config.toml"
    file.write_text(f'preset = "{preset}"\n{extra}\n' + "".join(tables))
    return file


def run(folder, photos, stage, *options, out="out", **config):
    """Run the command in a folder; returns its exit code."""
    command = [stage.replace("_", "-"), "--config", configured(folder, **config)]
    command += ["--photos", photos, "--out", folder / out, "--device", "cpu", *options]
    return cli.main([str(word) for word in command])


@pytest.fixture
def train(photos, tmp_path):
    """`train(stage, *options, **config)` runs the command and returns its exit code."""
    return partial(run, tmp_path, photos)


@pytest.fixture(scope="session")
def trained_once(photos, tmp_path_factory):
    """A folder with the weights of all three stages after two updates; do not change it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "toy", TOY)
        for stage in STAGES:
            assert run(folder, photos, stage, iterations=2) == 0
    return folder / "out"


@pytest.fixture
def trained(trained_once, tmp_path):
    """The same, to be changed."""
    return shutil.copytree(trained_once, tmp_path / "out")
