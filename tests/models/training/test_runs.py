"""Whole runs of `lpnsr-train`: resumed to the same curve, frozen where they should be, no loss."""

import csv
import shutil
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from lpnsr.models.training.config import STAGES, StageConfig
from lpnsr.models.training.trainer import Trainer


def rows(file):
    """Iteration, losses and rates of a log; not the seconds."""
    with file.open() as text:
        return [row[:-1] for row in csv.reader(text)]


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupted_run_goes_on_to_the_same_curve(stage, train, trained, tmp_path, monkeypatch):
    weights = f"{stage}.safetensors"
    given = ("--weights", trained)
    assert train(stage, *given, out="whole", iterations=6) == 0
    step = Trainer._step

    def interrupted(self):
        if self.iteration == 5:
            raise KeyboardInterrupt
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", interrupted)
        assert train(stage, *given, out="parts", iterations=6) == 130
    assert not (tmp_path / "parts" / weights).exists()
    torch.manual_seed(123)
    assert train(stage, *given, "--resume", out="parts", iterations=6) == 0

    whole, parts = (rows(tmp_path / name / f"{stage}.csv") for name in ("whole", "parts"))
    assert len(whole) == 7
    assert whole == parts
    found, expected = (load_file(tmp_path / name / weights) for name in ("parts", "whole"))
    assert all(torch.equal(found[key], value) for key, value in expected.items())
    assert any(float(row[5]) for row in whole[1:]), "the discriminator took part"
    assert not list(tmp_path.rglob("*.partial"))


def test_training_lowers_the_loss(train, tmp_path):
    options = {"iterations": 60, "learning_rate": 1e-2, "judged": 1000}
    assert train("pre_upsampler", **options) == 0
    pixel = [float(row[2]) for row in rows(tmp_path / "out" / "pre_upsampler.csv")[1:]]
    assert sum(pixel[-10:]) < 0.9 * sum(pixel[:10])


def test_only_the_noise_predictor_changes_in_its_stage(train, trained):
    before = {stage: load_file(trained / f"{stage}.safetensors") for stage in STAGES}
    (trained / "noise_predictor.ckpt").unlink()
    assert train("noise_predictor", iterations=3) == 0
    for stage, weights in before.items():
        after = load_file(trained / f"{stage}.safetensors")
        same = all(torch.equal(after[key], value) for key, value in weights.items())
        assert same == (stage != "noise_predictor")


def test_a_loss_that_is_not_a_number_stops_with_the_last_checkpoint(
    train, trained, tmp_path, capfd, monkeypatch
):
    step = Trainer._step

    def spoilt(self):
        if self.iteration == 3:
            next(self.network.parameters()).data.fill_(float("nan"))
        return step(self)

    monkeypatch.setattr(Trainer, "_step", spoilt)
    capfd.readouterr()
    assert train("denoiser", "--weights", trained, out="nan", iterations=9) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert "not a number in iteration 3" in error
    assert "--resume" in error
    assert not (tmp_path / "nan" / "denoiser.safetensors").exists()
    state = torch.load(tmp_path / "nan" / "denoiser.ckpt", weights_only=True)
    assert state["iteration"] == 2
    assert all(value.isfinite().all() for value in state["network"].values())


def test_validation_pictures_come_as_a_contact_sheet(train, photos, tmp_path):
    big = tmp_path / "big"
    big.mkdir()
    for photo in photos.iterdir():
        with Image.open(photo) as image:
            image.resize((256, 264)).save(big / photo.name)
    assert train("pre_upsampler", "--validation", big, iterations=2) == 0
    with Image.open(tmp_path / "out" / "pre_upsampler.png") as sheet:
        assert sheet.size == (3 * 256, 2 * 256)


def test_weights_can_be_the_start(train, trained, tmp_path):
    file = trained / "pre_upsampler.safetensors"
    options = {"iterations": 1, "learning_rate": 1e-12, "out": "again"}
    assert train("pre_upsampler", "--init", file, **options) == 0
    again = load_file(tmp_path / "again" / file.name)
    for key, value in load_file(file).items():
        torch.testing.assert_close(again[key], value)


def test_bad_input_is_told_in_one_line(train, trained, photos, tmp_path, capfd):
    empty, small, pairs = (tmp_path / name for name in ("empty", "small", "pairs"))
    empty.mkdir()
    small.mkdir()
    Image.new("RGB", (60, 200)).save(small / "narrow.png")
    (pairs / "lr").mkdir(parents=True)
    (pairs / "hr").mkdir()
    shutil.copy(photos / "waves.png", pairs / "lr")
    shutil.copy(photos / "waves.png", pairs / "hr")
    checkpoint = (trained / "denoiser.ckpt").read_bytes()
    (trained / "broken").mkdir()
    (trained / "broken" / "pre_upsampler.ckpt").write_bytes(checkpoint[:1000])
    (trained / "swapped").mkdir()
    (trained / "swapped" / "pre_upsampler.ckpt").write_bytes(checkpoint)

    cases = [
        (("--photos", empty), {}, "no pictures in"),
        (("--photos", small), {}, "smaller than a crop of 64x64"),
        (("--pairs", pairs), {"extra": "degraded_share = 0.5"}, "is not 4 times the size"),
        ((), {"extra": "degraded_share = 0.5"}, "--pairs"),
        ((), {"extra": "crops = 3"}, "unknown setting 'crops'"),
        ((), {"extra": 'seed = "x"'}, "is not a int"),
        ((), {"extra": "seed = "}, "cannot be read as a configuration"),
        ((), {"preset": "big"}, "unknown preset 'big'"),
        ((), {}, "exists: go on with --resume"),
        (("--resume",), {"learning_rate": 5e-4}, "made with other settings"),
        (
            ("--resume",),
            {"out": "out/broken"},
            "cannot be read as a checkpoint",
        ),
        (("--resume",), {"out": "out/swapped"}, "is a checkpoint of denoiser of toy"),
        (("--resume",), {"out": "fresh"}, "no checkpoint"),
        (("--init", photos / "waves.png"), {"out": "fresh"}, "cannot be read as a checkpoint"),
        (("--weights", empty), {"out": "fresh", "stage": "denoiser"}, "train it first"),
    ]
    for options, config, message in cases:
        capfd.readouterr()
        code = train(config.pop("stage", "pre_upsampler"), *options, iterations=2, **config)
        lines = capfd.readouterr().err.splitlines()
        assert (code, len(lines)) == (2, 1), (message, lines)
        assert message in lines[0]
    assert (trained / "denoiser.ckpt").read_bytes() == checkpoint


def test_degraded_crops_have_a_perceptual_weight_of_their_own():
    settings = StageConfig(perceptual=0.5, degraded_perceptual=2.0)
    trainer = SimpleNamespace(settings=settings)
    errors = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = torch.zeros(4, 3, 8, 8)
    term = Trainer._perceptual(
        trainer,
        torch.nn.L1Loss(),
        found,
        found + errors[:, None, None, None],
        torch.tensor([False, True, True, False]),
    )
    assert term.item() == pytest.approx((0.5 * (1 + 4) + 2.5 * (2 + 3)) / 4)
