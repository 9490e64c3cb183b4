"""`lpnsr-bench table` and `quick`."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from dm_sr import PRESET as MICRO_DMSR
from PIL import Image

from lpnsr.benchmarks import cli, isolated, machine, methods, pages, plots, table, workloads
from lpnsr.benchmarks.measure import Result
from lpnsr.benchmarks.methods import AUTHORS, COMPILED, EAGER, STAGED, TRACED, UNCAPTURED
from lpnsr.benchmarks.timing import Row
from lpnsr.benchmarks.workloads import WORKLOADS, Model, Published, Workload
from lpnsr.export.check.run_onnx import computes_bf16
from lpnsr.export.check.verify import ParityError
from lpnsr.models.presets import PRESETS
from lpnsr.runtime.bundle import BUILTIN

MODEL = Model("micro-2", "micro")


@pytest.fixture
def quickly(monkeypatch):
    """Without what takes long: `torch.compile` and large matrix products."""

    def fail(chain):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(methods, "compile_networks", fail)
    monkeypatch.setattr(machine, "rates", lambda known=None: {"fp32": 100, "bf16": 200})


def rows(text, first):
    """Rows of the table whose first column has this title: (model, method) -> the rest."""
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith(f"| {first} ")]
    return [
        {(cells[0], cells[1]): cells[2:] for cells in (line[2:-2].split(" | ") for line in table)}
        for table in tables
    ]


def test_quick_has_every_method_and_every_cause(
    micro, traced_once, quickly, monkeypatch, tmp_path, capsys
):
    monkeypatch.setitem(PRESETS, "micro", replace(micro.preset, weights=micro.weights))
    monkeypatch.setattr(isolated, "twice", lambda *task: START)
    models = (replace(MODEL, label="built-in"),)
    monkeypatch.setitem(
        WORKLOADS, "quick", replace(WORKLOADS["quick"], models=models, size=(16, 16))
    )
    monkeypatch.setattr("lpnsr.benchmarks.quick.BUILTIN", None)
    files = {name: tmp_path / f"out.{name}" for name in ("json", "markdown", "plot")}
    files["plot"] = tmp_path / "out.png"
    options = [word for name, file in files.items() for word in (f"--{name}", str(file))]
    assert cli.main(["quick", "--runs", "2", "--compile", *options]) == 0
    printed = capsys.readouterr().out
    kept = json.loads(files["json"].read_text())
    assert printed == pages.whole(kept) + "\n" == files["markdown"].read_text(encoding="utf-8")
    with Image.open(files["plot"]) as image:
        assert image.text[plots.DIGEST] == plots.digest(kept)

    (result,) = kept["results"]
    expected = {EAGER, EAGER + AUTHORS}
    expected |= {f"{engine} fp32{what}" for engine in ENGINES for what in ("", TRACED)}
    expected |= {"OpenVINO bf16"} if computes_bf16() else set()
    assert expected <= set(result["row"]["seconds"])
    assert result["missing"][COMPILED] == "no compiler"
    assert "does not compute in bf16" in result["missing"]["ONNX Runtime bf16"]
    assert f"- {COMPILED}: no compiler\n" in printed
    for engine in ON_GPU:
        reasons = {result["missing"][f"{engine} {computed}"] for computed in ("fp32", "mixed")}
        assert len(reasons) == 1
    psnr = result["row"]["psnr"]
    assert min(value for name, value in psnr.items() if " fp32" in name) > 80
    assert result["parameters"] == sum(p.numel() for p in micro.chain.parameters())
    assert result["graph_macs"] < result["row"]["macs"]

    causes = pages.causes(psnr)
    assert set(causes) == {name for name in psnr if AUTHORS not in name and TRACED not in name}
    for name, steps in causes.items():
        before, after = steps.pop("total")
        assert after == name
        for one, other in steps.values():  # a chain, so that the product of the factors is it
            assert one == before
            before = other
        assert before == after
    assert {"engine", "graph rewriting", "precision"} <= causes["OpenVINO fp32"].keys()


ENGINES = ("ONNX Runtime", "OpenVINO")
ON_GPU = ("ONNX Runtime CUDA", "TensorRT", "TensorRT-RTX")


def test_mixed_precision_runs_on_the_gpu_backends_that_there_are(monkeypatch):
    def load(bundle, engine, precision, lr, noise, captures=True):
        if engine == "tensorrt":
            raise RuntimeError("no such package")
        return lambda: (bundle.path, engine, precision, captures)

    monkeypatch.setattr(methods, "_loaded", load)
    found = methods.Methods()
    single = SimpleNamespace(path="single")
    found.add_engines(single, None, None, lambda topology: SimpleNamespace(path=topology))
    for engine, name in (
        ("ONNX Runtime CUDA", "onnxruntime-cuda"),
        ("TensorRT-RTX", "tensorrt-rtx"),
    ):
        assert found.runs[f"{engine} fp32"]() == ("single", name, "auto", True)
        assert found.runs[f"{engine} mixed"]() == ("unrolled", name, "auto", True)
        assert found.engines[f"{engine} mixed"] == ("unrolled", name, "auto")
    variants = {
        ", without CUDA graph": ("unrolled", False),
        ", staged": ("staged", True),
        ", staged, without CUDA graph": ("staged", False),
    }
    for variant, (path, captures) in variants.items():
        made = found.runs[f"TensorRT-RTX mixed{variant}"]()
        assert made == (path, "tensorrt-rtx", "auto", captures)
        assert f"ONNX Runtime CUDA mixed{variant}" not in found.runs
    assert found.missing == {
        "TensorRT fp32": "no such package",
        "TensorRT mixed": "no such package",
    }


def test_variants_of_an_engine_are_no_steps_on_the_way_to_a_speed_up():
    single, mixed = "TensorRT fp32", "TensorRT mixed"
    seconds = {EAGER: [4.0], EAGER + AUTHORS: [5.0], single: [2.0], mixed: [1.0]}
    variants = {mixed + STAGED: [3.0], mixed + UNCAPTURED: [1.5]}
    found = pages.causes(seconds | variants)
    assert found == pages.causes(seconds)
    assert found[mixed]["precision"] == (single, mixed)
    assert found[mixed]["total"] == (EAGER + AUTHORS, mixed)


def test_an_export_out_of_tolerance_is_a_row_that_is_missing(monkeypatch):
    def failing(topology):
        raise ParityError("x_0 differs\nby this much")

    monkeypatch.setattr(methods, "_loaded", lambda *arguments: lambda: None)
    found = methods.Methods()
    found.add_engines(SimpleNamespace(path="single"), None, None, failing)
    assert {f"{engine} fp32" for engine in ON_GPU} < found.runs.keys()
    assert found.missing == {f"{engine} mixed": "x_0 differs" for engine in ON_GPU}


START = {"first": 2.0, "second": 1.0, "memory": 5 * 10**8, "device_memory": None}


def test_a_table_is_measured_as_asked_for(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(table, "measure_all", lambda *words: asked.append(words) or 0)
    options = ["--batch", "2", "--size", "64", "--runs", "3", "--no-starts"]
    assert cli.main(["table", "upsr-table2", *options, "--bundles", str(tmp_path)]) == 0
    ((workload, settings, _, only),) = asked
    assert (workload.name, workload.batch, workload.size) == ("upsr-table2", 2, (64, 64))
    assert (settings.runs, settings.starts, settings.bundles) == (3, False, tmp_path)
    assert (settings.alone, only) == (False, ())
    options = ["--models", "UPSR-5", "ResShift-4", "--one-by-one"]
    assert cli.main(["table", "upsr-table2", *options]) == 0
    assert (asked[-1][1].alone, asked[-1][3]) == (True, ["UPSR-5", "ResShift-4"])


def test_models_are_measured_one_at_a_time_into_one_file(quickly, monkeypatch, tmp_path, capsys):
    def measure(model, workload, options):
        seconds = {EAGER: [2.0, 2.0], EAGER + AUTHORS: [len(measured) + 2.0] * 3}
        measured.append(model.label)
        row = Row(model.label, 10**9, seconds, dict.fromkeys(seconds, 200.0))
        fixed = {"weights": "w", "parameters": 1, "constants": 1, "graph_macs": 1, "build": {}}
        return Result(label=model.label, row=row, export=None, in_turns=not options.alone, **fixed)

    measured, file = [], tmp_path / "kept.json"
    monkeypatch.setattr(table, "measure", measure)
    options = ["table", "upsr-table2", "--json", str(file)]
    for chosen in (["UPSR-5"], ["ResShift-15", "--one-by-one"], ["UPSR-5"]):
        assert cli.main([*options, "--models", *chosen]) == 0
    assert measured == ["UPSR-5", "ResShift-15", "UPSR-5"]
    results = json.loads(file.read_text())["results"]
    assert [result["label"] for result in results] == ["ResShift-15", "UPSR-5"]
    assert [result["row"]["seconds"][EAGER + AUTHORS][0] for result in results] == [3.0, 4.0]
    printed = capsys.readouterr().out
    assert "2 to 3 rounds in turns (but ResShift-15 one by one), w." in printed

    for wrong, message in (
        (["--models", "LPNSR-4"], "upsr-table2 has no LPNSR-4; it has ResShift-15, ResShift-4"),
        (["--models", "UPSR-5", "--batch", "1"], "another workload or machine"),
    ):
        assert cli.main([*options, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert len(measured) == 3


@pytest.mark.slow
def test_published_figures_stand_in_a_column_of_their_own(
    micro, quickly, monkeypatch, tmp_path, capsys
):
    workload = Workload(
        "upsr-table2",
        "words",
        (MODEL, Model("micro-1", "micro", steps=1, start="bicubic")),
        batch=3,
        size=(32, 32),
        published=(Published("micro-1", 0.5, 1.25), Published("LDM-15", 1.59, parameters="2+3 M")),
        source="paper, one GPU",
    )
    monkeypatch.setitem(workloads.WORKLOADS, workload.name, workload)
    bundles = tmp_path / "bundles"
    options = ["--batch", "1", "--size", "16", "--runs", "1", "--no-starts"]
    options += ["--bundles", str(bundles)]
    assert cli.main(["table", workload.name, *options]) == 0
    printed = capsys.readouterr().out
    assert {folder.name for folder in bundles.iterdir()} == {
        "micro_16x16_b1",
        "micro-t1-bicubic_16x16_b1",
    }
    assert "published figures, which are for batch 3 of 32x32" in printed
    assert "deterministic weights" in printed
    assert f"- {COMPILED}: it compiles for minutes" in printed
    speeds = rows(printed, "model")[0]
    assert speeds["model", "method"][-1] == "*published: paper, one GPU*"
    assert speeds["micro-1", EAGER + AUTHORS][-1] == "0.5 s, 1.25 GB"
    assert speeds["LDM-15", "-"] == ["-"] * 4 + ["1.59 s, 2+3 M"]
    assert speeds["micro-2", EAGER + AUTHORS][-1] == ""
    # A second run finds the bundles.
    assert cli.main(["table", workload.name, *options]) == 0
    assert "exporting" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_table_of_dm_sr_in_miniature(quickly, monkeypatch, tmp_path, capsys):
    """Real-ESRGAN as it is; one engine at a time, as the full size wants it."""
    monkeypatch.setitem(PRESETS, "dmsr", replace(MICRO_DMSR, name="dmsr"))
    file = tmp_path / "kept.json"
    options = ["--size", "16", "--runs", "1", "--no-starts", "--one-by-one", "--json", str(file)]
    models = ["RealESRGAN", "DM-SR-1", "DM-SR-2", "DM-SR-1, timestep 250"]
    assert cli.main(["table", "dmsr-table2", "--models", *models, *options]) == 0
    printed = capsys.readouterr().out
    results = json.loads(file.read_text())["results"]
    assert [result["label"] for result in results] == models
    for result in results:
        psnr = result["row"]["psnr"]
        assert {EAGER, EAGER + AUTHORS} | {f"{engine} fp32" for engine in ENGINES} <= psnr.keys()
        assert min(value for name, value in psnr.items() if " fp32" in name) > 80
        assert result["row"]["macs"] > 0 and result["parity"]["fp32"]["x0_relative_l2"] < 1e-4
    speeds = rows(printed, "model")[0]
    for model, published in (
        ("RealESRGAN", "0.065 s, 16.70 M trained"),
        ("DM-SR-1", "0.092 s, 34.16 M trained, LIQE 4.652 on RealSet80"),
        ("DM-SR-2", "LIQE 4.799 on RealSet80, table 4"),
        ("DM-SR-1, timestep 250", "LIQE 4.471 on RealSet80, table 3"),
    ):
        assert speeds[model, EAGER + AUTHORS][-1] == published
    assert speeds["InvSR-1", "-"][-1] == "0.117 s, 33.84 M trained"
    assert "1 rounds, one method after the other" in printed


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_workloads_name_models_that_there_are(workload):
    for model in workload.models:
        preset = model.build()
        assert all(side % preset.multiple == 0 for side in workload.size)
    keys = [model.key for model in workload.models]
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_a_process_of_its_own(micro, tmp_path):
    file = tmp_path / "chain.pt"
    torch.save(micro.chain, file)
    eager = isolated.measure(
        isolated.Trial(str(file), "torch", "fp32", (16, 16), str(tmp_path), runs=1)
    )
    assert len(eager.seconds) == 1
    assert eager.memory >= eager.idle > 10**8
    engine = isolated.measure(
        isolated.Trial(str(BUILTIN), "onnxruntime", "fp32", (64, 64), str(tmp_path))
    )
    assert engine.seconds == [] and engine.memory > 5e7
    with pytest.raises(RuntimeError, match="no_such_bundle"):
        isolated.measure(
            isolated.Trial("no_such_bundle", "openvino", "fp32", (8, 8), str(tmp_path))
        )


def test_two_starts(monkeypatch, tmp_path):
    """The second finds what the first has compiled."""
    trials = []

    def measure(trial):
        trials.append(trial)
        return isolated.Measured(3.0 / len(trials), [], 1, 10 * len(trials), None)

    monkeypatch.setattr(isolated, "measure", measure)
    found = isolated.twice(BUILTIN, "onnxruntime", "fp32", (64, 64), tmp_path)
    assert found == {"first": 3.0, "second": 1.5, "memory": 20, "device_memory": None}
    assert found.keys() == START.keys()
    assert trials[0] == trials[1] and Path(trials[0].cache).parent == tmp_path
