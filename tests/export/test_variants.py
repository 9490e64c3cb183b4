"""Every variant on small networks: exported, verified and run, from the checkpoints it needs."""

import collections
import itertools
import json
import re
import shutil
from dataclasses import replace

import onnx
import pytest
from PIL import Image
from selection import slow_but

from lpnsr.export import cli, pack
from lpnsr.export.check import parity
from lpnsr.export.graph import trace
from lpnsr.models import presets
from lpnsr.models.roles import NOISE_KINDS, STARTS
from lpnsr.models.schedule import Schedule
from lpnsr.models.variants import vary
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.command import cli as runtime

from .conftest import SMALL

NOISE = {kind: [kind] for kind in NOISE_KINDS} | {"mixed": ["predicted", "zero"]}
COMBINATIONS = [
    (steps, noise, start)
    for steps, noise, start in itertools.product((1, 2, 3), NOISE, STARTS)
    if steps == 3 or noise != "mixed"
]
# Every number of steps, every kind of noise and both starts occur.
QUICK = [(1, "zero", "swinir"), (2, "gaussian", "bicubic"), (3, "mixed", "swinir")]


@pytest.fixture(scope="module")
def bicubic(micro):
    """The trace of a bicubic start."""
    preset = vary(micro.preset, start="bicubic")
    return trace.trace_stage(preset.build(), preset, "pre_upsampler", *SMALL)


@pytest.fixture
def export(quick, bicubic, tmp_path, monkeypatch, micro_traces, capfd):
    """Exports variants of `micro` with three steps; gives exit code and lines on stderr."""
    preset = replace(quick.preset, name="micro3", schedule=Schedule(steps=3))
    monkeypatch.setitem(presets.PRESETS, "micro3", preset)
    monkeypatch.setattr(parity, "computes_bf16", lambda: False)

    def traced(_chain, preset, stage, *shape):
        is_bicubic = stage == "pre_upsampler" and stage not in preset.networks
        return bicubic if is_bicubic else micro_traces(stage, *shape)

    monkeypatch.setattr(pack, "trace_stage", traced)

    def export(*options):
        command = ["--preset", "micro3", "--tile", "16", "-o", tmp_path / "bundle", *options]
        return cli.main([*map(str, command)]), capfd.readouterr().err.splitlines()

    return export


@pytest.mark.parametrize(("steps", "noise", "start"), slow_but(QUICK, COMBINATIONS))
def test_exports_verifies_and_runs(export, quick, tmp_path, steps, noise, start):
    kinds = NOISE[noise] if noise == "mixed" else NOISE[noise] * (steps - 1)
    weights = shutil.copytree(quick.weights, tmp_path / "weights")
    if "predicted" not in kinds:
        (weights / "noise_predictor.safetensors").unlink()
    if start == "bicubic":
        (weights / "pre_upsampler.safetensors").unlink()
    options = ["--steps", steps, "--noise", *NOISE[noise], "--pre-upsampler", start]
    assert export("--weights", weights, *options) == (0, [])

    bundle = Bundle.open(tmp_path / "bundle")
    manifest = bundle.manifest
    assert manifest.preset == "micro3"
    assert manifest.variant == {"steps": steps, "noise": kinds, "start": start}
    assert manifest.draws == 1 + len(kinds) - kinds.count("zero")
    counts = calls(bundle.graph_path(manifest.graphs[0]))
    assert counts["denoiser"] == steps
    assert counts["noise_predictor"] == kinds.count("predicted")

    Image.linear_gradient("L").resize((20, 12)).convert("RGB").save(tmp_path / "small.png")
    large = tmp_path / "large.png"
    report = tmp_path / "run.json"
    command = [tmp_path / "small.png", "-o", large, "--model", bundle.path, "--report", report]
    assert runtime.main([*map(str, command), "--overlap", "8"]) == 0
    with Image.open(large) as picture:
        assert picture.size == (80, 48)
    (told,) = json.loads(report.read_text())["pictures"]
    assert told["variant"] == manifest.variant


def calls(file):
    """How often each network is called in a graph."""
    nodes = onnx.load(file, load_external_data=False).graph.node
    matches = (re.match(r"(\w+)_(\d+)/", node.name) for node in nodes)
    return collections.Counter(name for name, _ in {match.groups() for match in matches if match})


def test_a_file_of_the_pre_upsampler(export, quick, tmp_path):
    """The option names the checkpoint, too."""
    weights = shutil.copytree(quick.weights, tmp_path / "weights")
    (weights / "pre_upsampler.safetensors").rename(tmp_path / "swinir.safetensors")
    options = ("--pre-upsampler", tmp_path / "swinir.safetensors")
    assert export("--weights", weights, *options) == (0, [])
    assert Bundle.open(tmp_path / "bundle").manifest.variant["start"] == "swinir"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "9"], "micro3: a chain of 3 steps cannot be run with 9"),
        (["--preset", "resshift", "--noise", "predicted"], "resshift has no noise predictor"),
        (["--preset", "resshift", "--pre-upsampler", "swinir"], "resshift has no pre-upsampler"),
        (["--preset", "sinsr", "--steps", "2"], "a chain of 1 steps cannot be run with 2"),
        (["--preset", "upsr", "--noise", "gaussian"], "the steps of upsr use no noise"),
        (["--noise", "zero", "zero", "zero"], "one kind of noise for all or 2, not 3"),
        (
            ["--noise", "zero", "--noise-predictor", "any.pth"],
            "micro3 needs no noise_predictor here; leave out --noise-predictor",
        ),
    ],
)
def test_what_there_is_not_gets_one_line(export, quick, tmp_path, options, message):
    code, (line,) = export("--weights", quick.weights, *options)
    assert code == 2
    assert line.startswith("lpnsr-export: ") and message in line
    assert not (tmp_path / "bundle").exists()
