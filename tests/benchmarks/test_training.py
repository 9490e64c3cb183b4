"""`lpnsr-bench training`."""

import json

import pytest

from lpnsr.benchmarks import cli, training
from lpnsr.benchmarks.workloads import Published
from lpnsr.models.presets import get_preset
from lpnsr.models.training.config import StageConfig
from lpnsr.models.training.estimate import estimate


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(training, "TRAINING", {"lpnsr-tiny": Published("built-in", 0.5, 9.25)})


@pytest.mark.slow
def test_iterations_of_the_command_are_timed(tiny, tmp_path, capsys):
    file = tmp_path / "kept.json"
    options = ["--batch", "2", "--crop", "16", "--runs", "3", "--json", str(file)]
    assert cli.main(["training", *options]) == 0
    kept = json.loads(file.read_text())
    printed = capsys.readouterr().out
    assert printed == training.describe(kept) + "\n"
    (measured,) = kept["models"].values()
    assert len(measured["seconds"]) == 3
    assert measured["memory"] > 1e8
    settings = StageConfig(batch=16, crop=16, adversarial=0.0)
    guess = estimate(get_preset("lpnsr-tiny"), "denoiser", settings)
    assert measured["estimated"] == guess.states + guess.activations
    *_, row = printed.splitlines()
    assert row.startswith("| built-in | 0.") and row.endswith(" | 0.5 s, 9.25 GB |")
    assert "batch 2 of 16x16" in printed and "**Not comparable" in printed


def test_a_training_that_fails_is_told(tiny, monkeypatch, capsys):
    monkeypatch.setattr(training, "_write_inputs", lambda *_: None)
    assert cli.main(["training", "--batch", "1", "--crop", "16"]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("lpnsr-bench training: lpnsr-train: there are no pictures in ")


def test_figures_of_the_published_batch_are_comparable():
    measured = {"seconds": [1.0, 1.0], "memory": 2 * 10**9, "estimated": 3 * 10**9}
    about = {"processor": "P", "cores": 2, "GPU": "G"}
    models = dict.fromkeys(training.TRAINING, measured)
    text = training.describe({"machine": about, "batch": 16, "crop": 64, "models": models})
    assert "| ResShift | 1.000 s ± 0% | 2.0 GB | 3.0 GB | 1.2 s, 24.1 GB |" in text
    assert "| UPSR | 1.000 s ± 0% | 2.0 GB | 3.0 GB | 0.45 s, 14.9 GB |" in text
    assert "P, 2 cores, G." in text and "Not comparable" not in text
