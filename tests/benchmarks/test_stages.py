"""`lpnsr-bench stages`, and that the README shows what it kept."""

import json
from pathlib import Path

import numpy as np
import pytest
from small import MICRO, random_model

from lpnsr.benchmarks import cli, stages
from lpnsr.export.engines import computes_bf16
from lpnsr.models import presets

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "benchmarks" / "results").glob("stages_*.json"))


@pytest.fixture
def figures(monkeypatch, tmp_path, capsys):
    micro = random_model(MICRO, tmp_path)
    monkeypatch.setitem(presets.PRESETS, "micro", micro.preset)
    file = tmp_path / "figures.json"
    options = ["--preset", "micro", "--tile", "16", "--runs", "2", "--json", str(file)]
    assert cli.main(["stages", *options, "--weights", str(micro.weights)]) == 0
    kept = json.loads(file.read_text())
    assert stages.report(kept) in capsys.readouterr().out
    return kept


def test_every_stage_and_the_chain_in_every_engine(figures):
    names = ["pre_upsampler", "encoder", "denoiser", "noise_predictor", "quantizer", "decoder"]
    assert [row["name"] for row in figures["rows"]] == [*names, "chain"]
    engines = {stages.EAGER, *stages.ENGINES}
    if not computes_bf16():
        engines.remove("OpenVINO bf16")
    for row in figures["rows"]:
        assert set(row["seconds"]) == set(row["psnr"]) == engines
        assert all(len(seconds) == 2 and min(seconds) >= 0 for seconds in row["seconds"].values())
        assert row["macs"] > 0
        assert min(value for name, value in row["psnr"].items() if "f32" in name) > 60
    assert set(figures["starts"]) == engines - {stages.EAGER}
    for starts in figures["starts"].values():
        assert len(starts) == 2
        assert all(start["memory"] > 5e7 and start["seconds"] > 0 for start in starts)
    assert figures["machine"]["GMAC/s in matrix products"]["f32"] > 1


def test_engines_take_turns_after_a_round_that_compares():
    order = []

    def engine(name, value):
        def call():
            order.append(name)
            return np.full(3, value)

        return call

    row = stages.time_in_turns(
        stages.Row("x", 1), {"a": engine("a", 0.0), "b": engine("b", 0.2)}, runs=2
    )
    assert order == ["a", "b"] * 3
    assert row.psnr == {"a": 200.0, "b": pytest.approx(20.0)}


def test_unknown_presets_are_refused_in_one_line(capsys):
    assert cli.main(["stages", "--preset", "abacus"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_the_readme_shows_the_kept_figures(file):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert stages.report(json.loads(file.read_text())) in readme


def test_figures_of_both_models_are_kept():
    assert {file.stem for file in KEPT} == {"stages_lpnsr", "stages_lpnsr-tiny"}
