"""Training of DM-SR in miniature."""

import csv
from dataclasses import replace

import pytest
import torch
from dm_sr import PRESET
from safetensors.torch import load_file, save_file
from small import random_model

from lpnsr.models import presets
from lpnsr.models.checkpoints import CheckpointError
from lpnsr.models.training.cli import main
from lpnsr.models.training.config import DIFFUSION_STAGES, StageConfig
from lpnsr.models.training.diffusion_objectives import start_from_published, steer
from lpnsr.models.training.errors import TrainingError
from lpnsr.models.training.estimate import estimate
from lpnsr.models.training.objectives import make_objective
from lpnsr.models.training.trainer import Trainer
from lpnsr.models.weights import load_chain

CONFIG = 'preset = "micro-dmsr"\n' + "".join(
    f"""
[{stage}]
iterations = 3
batch = 2
crop = 16
learning_rate = 1e-3
perceptual = {perceptual}
adversarial = {adversarial}
adversarial_start = 1
save_every = 1
"""
    for stage, perceptual, adversarial in (
        ("timestep_estimator", 0.0, 0.0),
        ("encoder", 2.0, 0.1),
    )
)


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, PRESET.name, PRESET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints as they are published: the autoencoder in one file."""
    folder = tmp_path_factory.mktemp("published")
    chain = random_model(PRESET, folder).chain
    whole = chain.encoder.state_dict() | chain.decoder.state_dict()
    whole = {name: value for name, value in whole.items() if not name.startswith("time_")}
    save_file(whole, folder / PRESET.networks["decoder"].files[0])
    return folder


def loaded(folder):
    files = {role: folder / network.files[0] for role, network in PRESET.networks.items()}
    chain = load_chain(PRESET, files)
    start_from_published(chain, files["decoder"])
    return chain


@pytest.fixture
def train(folder, photos, tmp_path):
    """`train(stage, out, *options)` runs the command and returns its exit code."""
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)

    def run(stage, out, *options):
        command = [stage.replace("_", "-"), "--config", config, "--photos", photos]
        command += ["--weights", folder, "--out", tmp_path / out, "--device", "cpu", *options]
        return main([str(word) for word in command])

    return run


@pytest.mark.parametrize("name", DIFFUSION_STAGES)
def test_the_loss_falls(name, folder):
    chain = loaded(folder)
    config = StageConfig(perceptual=0.0, adversarial=0.0, checkpoint_activations=False)
    stage = make_objective(name, chain, PRESET, config)
    optimizer = torch.optim.AdamW(stage.network.requires_grad_(True).parameters(), 3e-3)
    torch.manual_seed(0)
    lr, hr = torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 64, 64) * 2 - 1
    losses = []
    for _ in range(12):
        torch.manual_seed(1)
        found, expected, *more = stage.predict(lr, hr)
        assert len(more) == (name == "encoder")
        loss = torch.nn.functional.l1_loss(found, expected) + sum(more)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    frozen = [
        p for role in PRESET.networks if role != name for p in chain.network(role).parameters()
    ]
    assert all(parameter.grad is None for parameter in frozen)


@pytest.mark.parametrize("stage", DIFFUSION_STAGES)
def test_an_interrupted_run_goes_on_to_the_same_weights(stage, train, tmp_path, monkeypatch):
    assert train(stage, "whole") == 0
    step = Trainer._step

    def interrupted(self):
        if self.iteration == 2:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        assert train(stage, "parts") == 130
    torch.manual_seed(123)
    assert train(stage, "parts", "--resume") == 0
    file = PRESET.networks[stage].files[0]
    found, expected = (load_file(tmp_path / out / file) for out in ("parts", "whole"))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with (tmp_path / "whole" / f"{stage}.csv").open() as text:
        assert len([*csv.reader(text)]) == 4


def test_the_encoder_starts_as_the_published_one(folder):
    chain = PRESET.build()
    start_from_published(chain, folder / PRESET.networks["decoder"].files[0])
    picture, timestep = torch.rand(1, 3, 64, 64), torch.tensor([250.0])
    torch.testing.assert_close(
        chain.encoder(picture, timestep), chain.published_encoder(picture, 0 * timestep)
    )
    file = folder / PRESET.networks["denoiser"].files[0]
    with pytest.raises(CheckpointError, match="not a checkpoint of the encoder"):
        start_from_published(chain, file)


def test_a_steered_value_has_the_gradient_that_is_wanted():
    values = torch.randn(3, 4, requires_grad=True)
    gradient = torch.randn(3, 4)
    steer(values, gradient).backward()
    torch.testing.assert_close(values.grad, gradient / 12)


def test_the_estimator_says_what_it_learns_to_tell(train, capfd):
    """LPIPS is not installed everywhere, and another distance gives other timesteps."""
    assert train("timestep_estimator", "out") == 0
    assert "distance from the original: " in capfd.readouterr().err


def test_the_estimator_makes_no_picture(folder):
    with pytest.raises(TrainingError, match="perceptual = 0"):
        make_objective("timestep_estimator", loaded(folder), PRESET, StageConfig())


@pytest.mark.parametrize("name", DIFFUSION_STAGES)
def test_the_estimate(name):
    judged = 0.1 if name == "encoder" else 0.0
    settings = StageConfig(batch=1, crop=16, perceptual=0.0, adversarial=judged)
    found = estimate(replace(PRESET), name, settings)
    built = PRESET.networks[name].build()
    assert found.trained == sum(parameter.numel() for parameter in built.parameters())
    assert min(found.checkpointed, found.activations) > 0
    assert (found.checkpointed < found.activations) == (name == "encoder")


def test_latents_are_judged_beside_the_small_picture(folder):
    config = StageConfig(checkpoint_activations=False)
    stage = make_objective("encoder", loaded(folder), PRESET, config)
    lr, hr = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        found, expected, _ = stage.predict(lr, hr)
        pair = stage.judged(found, expected, hr)
        shown = stage.shown(pair[0], lr)
        verdicts = stage.discriminator(8)(shown)
    assert pair[0].shape == pair[1].shape == (1, 4, 8, 8)
    torch.testing.assert_close(shown[:, 4:], torch.nn.functional.avg_pool2d(lr, 2))
    assert verdicts.shape == (1, 1, 2, 2)
