"""`lpnsr-bench stages`."""

import json
import math

import pytest
from PIL import Image

from lpnsr.benchmarks import cli, count, machine, plots, stages
from lpnsr.benchmarks.methods import EAGER
from lpnsr.export.check.run_onnx import computes_bf16
from lpnsr.models.presets import get_preset


@pytest.mark.slow
def test_every_stage_in_every_engine(micro, traced_once, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(
        machine, "matrix_rate", lambda precision, rate=machine.matrix_rate: rate(precision, 64)
    )
    file, plot = tmp_path / "figures.json", tmp_path / "plot.png"
    options = ["--preset", "micro", "--tile", "16", "--runs", "2", "--json", str(file)]
    options += ["--plot", str(plot)]
    assert cli.main(["stages", *options, "--weights", str(micro.weights)]) == 0
    kept = json.loads(file.read_text())
    assert capsys.readouterr().out == stages.report(kept) + "\n"
    names = ["pre_upsampler", "encoder", "denoiser", "noise_predictor", "quantizer", "decoder"]
    assert [row["name"] for row in kept["rows"]] == names
    engines = {EAGER, *stages.ENGINES}
    if not computes_bf16():
        engines.remove("OpenVINO bf16")
    for row in kept["rows"]:
        assert set(row["seconds"]) == set(row["psnr"]) == engines
        assert all(len(seconds) == 2 for seconds in row["seconds"].values())
        assert row["macs"] > 0
        assert min(value for name, value in row["psnr"].items() if "fp32" in name) > 60
    with Image.open(plot) as image:
        assert image.text[plots.DIGEST] == plots.digest(kept)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("lpnsr", {"denoiser": 4, "noise_predictor": 3, "encoder": 1, "decoder": 1}),
        ("upsr", {"denoiser": 5, "auxiliary": 1, "encoder": 1}),
        ("sinsr", {"denoiser": 1, "quantizer": 1}),
    ],
)
def test_calls_of_a_chain(preset, expected):
    assert count.calls_of(get_preset(preset)).items() >= expected.items()


def test_unknown_presets_are_refused_in_one_line(capsys):
    assert cli.main(["stages", "--preset", "abacus"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_matrix_products_are_timed():
    assert math.isfinite(machine.matrix_rate("fp32", 256))


def test_the_best_rate_counts(monkeypatch):
    monkeypatch.setattr(machine, "matrix_rate", lambda precision: 150e9)
    monkeypatch.setattr(machine, "computes_bf16", lambda: True)
    assert machine.rates() == {"fp32": 150, "bf16": 150}
    assert machine.rates({"fp32": 95, "bf16": 400}) == {"fp32": 150, "bf16": 400}
