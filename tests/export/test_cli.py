import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lpnsr.export import cli, pack
from lpnsr.export.check import parity
from lpnsr.models.checkpoints import CheckpointError
from lpnsr.models.presets import PresetError
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import MANIFEST, BundleError

TILE = ("--tile", "16")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(quick, here, capfd):
    """Exports the micro model to `out`; gives exit code and lines on stdout and stderr."""

    def run(*arguments, base=("--preset", "micro", "-o", "out", *TILE)):
        code = cli.main([*base, *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def exported(micro_bundles, here):
    """`out`, as the command would export it."""
    return shutil.copytree(micro_bundles["fp32"].path, here / "out")


def everything(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_export(run, quick, here):
    code, out, err = run("--weights", quick.weights)
    assert (code, err) == (0, [])
    bundle = Bundle.open(here / "out")
    size = sum(path.stat().st_size for path in (here / "out").iterdir())
    assert out[0] == f"out: {size / 1e6:.1f} MB"
    (graph,) = bundle.manifest.graphs
    assert out[1].startswith(
        f"  {graph.file} in fp32: 100 % of values within 1/255 of eager PyTorch, "
    )
    assert len(out) == 1 + 2 * len(bundle.manifest.graphs)


@pytest.mark.slow
def test_precision_and_topology(run, quick, here):
    options = ("--precision", "fp16", "--topology", "staged")
    code, out, err = run("--weights", quick.weights, *options)
    assert (code, err) == (0, [])
    manifest = Bundle.open(here / "out").manifest
    assert (manifest.topology, manifest.precision["denoiser"]) == ("staged", "fp16")
    assert out[1].startswith("  stages for 16x16, batch 1 in fp16: ")
    stages = [[stage, "in", f"{precision}:"] for stage, precision in manifest.precision.items()]
    assert [line.split()[:3] for line in out[2:]] == stages


def test_a_bundle_is_verified_anew(run, quick, exported):
    again = ("--verify", "out")
    code, out, err = run("--weights", quick.weights, base=again)
    assert (code, err) == (0, [])
    assert out[1].startswith(
        "  micro_16x16_b1.onnx in fp32: 100 % of values within 1/255 of eager PyTorch, "
    )
    assert run(base=again)[2][0].startswith("lpnsr-export: micro needs weights")


def test_other_weights_do_not_verify(run, quick, exported, here):
    """The bundle is whole, but not of these weights."""
    weights = load_file(quick.weights / "denoiser.safetensors")
    weights["out.2.weight"][0] *= 1.1
    save_file(weights, here / "denoiser.safetensors")
    options = ("--weights", quick.weights, "--denoiser", "denoiser.safetensors")
    code, out, err = run(*options, base=("--verify", "out"))
    assert (code, out, len(err)) == (2, [], 1)
    assert "x_0 of the exported graph is" in err[0]


def test_single_files(run, quick, copied):
    files = {role: quick.weights / f"{role}.safetensors" for role in quick.preset.networks}
    options = [
        part for role, file in files.items() for part in (f"--{role.replace('_', '-')}", file)
    ]
    assert run(*options)[0] == 0
    (chain,) = copied
    pairs = zip(chain.parameters(), quick.chain.parameters(), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)


def test_force(run, quick, exported, copied):
    arguments = ("--weights", quick.weights)
    code, _, err = run(*arguments)
    assert (code, err) == (
        2,
        ["lpnsr-export: out exists; add --force to replace it or name another folder"],
    )
    assert run(*arguments, "--force")[0] == 0


def test_each_tile_in_each_batch(run, quick, monkeypatch):
    asked = []

    def record(chain, preset, shapes, target, **_):
        asked.extend(shapes)
        raise BundleError("enough")

    monkeypatch.setattr(pack, "pack", record)
    run("--weights", quick.weights, "--tile", "16", "24x8", "16x16", "--batch", "1", "3")
    assert asked == [(1, (16, 16)), (1, (24, 8)), (3, (16, 16)), (3, (24, 8))]


def test_a_terminal_gets_a_progress_bar(run, quick, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert run("--weights", quick.weights)[0] == 0
    shown = terminal.getvalue()
    stages = ("load weights", *pack.stages(quick.preset, [(1, (16, 16))]))
    for stage in (*stages, "done"):
        assert stage in shown, stage
    assert f"{len(stages)}/{len(stages)}" in shown


def no_bundle(_):
    Path("out").mkdir()
    Path("out/cat.png").touch()


def bundle_that_is_there(_):
    Path("out").mkdir()
    (Path("out") / MANIFEST).touch()


def other_network(weights):
    save_file({"body.weight": torch.zeros(3, 3)}, weights / "denoiser.safetensors")


def text_file(weights):
    (weights / "denoiser.safetensors").write_text("hello, I am text")


def text_file_named_pth(weights):
    (weights / "denoiser.safetensors").write_text("hello, I am text")
    (weights / "denoiser.safetensors").rename("denoiser.pth")


BAD = {
    "no weights": (
        ["--preset", "lpnsr", "--tile", "64"],
        None,
        ["lpnsr needs weights", "--weights DIR", "--pre-upsampler FILE"],
    ),
    "no such folder": (
        ["--weights", "none"],
        None,
        ["there is no folder none", "autoencoder.safetensors, denoiser", "--weights DIR"],
    ),
    "folder without any file": (
        ["--weights", "."],
        None,
        ["autoencoder, denoiser and noise_predictor: put", "--denoiser FILE --noise-predictor"],
    ),
    "folder without one file": (
        ["--weights", "weights"],
        lambda weights: (weights / "denoiser.safetensors").unlink(),
        ["weights has no checkpoint of the denoiser", "denoiser.safetensors"],
    ),
    "no such file": (
        ["--weights", "weights", "--denoiser", "none.pth"],
        None,
        ["there is no checkpoint none.pth"],
    ),
    "no such files": (
        ["--weights", "weights", "--denoiser", "none.pth", "--autoencoder", "no.pth"],
        None,
        ["there is no checkpoint no.pth and no none.pth"],
    ),
    "network that the preset has not": (
        ["--weights", "weights", "--auxiliary", "weights/denoiser.safetensors"],
        None,
        ["micro needs no auxiliary here", "leave out --auxiliary"],
    ),
    "checkpoint of another network": (
        ["--weights", "weights"],
        other_network,
        ["not a checkpoint of the denoiser", "missing: time_embed.0.weight", "unexpected: body"],
    ),
    "swapped checkpoints": (
        ["--weights", "weights", "--denoiser", "weights/noise_predictor.safetensors"],
        None,
        ["noise_predictor.safetensors is not a checkpoint of the denoiser", "of the wrong shape"],
    ),
    "text as safetensors": (
        ["--weights", "weights"],
        text_file,
        ["weights/denoiser.safetensors cannot be read"],
    ),
    "text as pth": (
        ["--weights", "weights", "--denoiser", "denoiser.pth"],
        text_file_named_pth,
        ["denoiser.pth cannot be read"],
    ),
    "unknown preset": (["--preset", "lpnrs"], None, ["unknown preset 'lpnrs'", "lpnsr-tiny"]),
    "folder that is no bundle": (["--weights", "weights", "--force"], no_bundle, ["not a bundle"]),
    "bundle that is there": (["--weights", "weights"], bundle_that_is_there, ["add --force"]),
    "parent that is a file": (
        ["--weights", "weights", "-o", "file/out"],
        lambda _: Path("file").touch(),
        ["file"],
    ),
}


@pytest.fixture(params=BAD)
def bad(request, quick, here):
    """Arguments that are wrong, and what the message must say."""
    arguments, prepare, parts = BAD[request.param]
    weights = here / "weights"
    weights.mkdir()
    for file in quick.weights.iterdir():
        (weights / file.name).write_bytes(file.read_bytes())
    if prepare:
        prepare(weights)
    return arguments, parts


def test_bad_input_gets_one_line(bad, run, here):
    arguments, parts = bad
    before = everything(here)
    code, out, err = run(*arguments)
    assert (code, out, len(err)) == (2, [], 1), err
    assert err[0].startswith("lpnsr-export: ")
    for part in parts:
        assert part in err[0]
    assert everything(here) == before


def test_debug_shows_the_traceback(bad, run):
    arguments, _ = bad
    with pytest.raises((BundleError, CheckpointError, PresetError, OSError)):
        run(*arguments, "--debug")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tile", "64x"],
        ["--tile", "sixty"],
        ["--tile", "0"],
        ["--tile", "-64"],
        ["--tile", "64x64x64"],
        ["--tile", "16", "16x20"],
        ["--batch", "0"],
        ["--batch", "1.5"],
        ["--tile"],
        ["--nonsense"],
    ],
)
def test_malformed_options(run, here, arguments, capfd):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    err = capfd.readouterr().err
    assert "lpnsr-export: error: " in err and "Traceback" not in err
    assert everything(here) == []


def test_a_wrong_graph_gets_one_line(run, quick, here, monkeypatch):
    monkeypatch.setattr(
        parity, "measure", lambda *_, **__: {"x0_relative_l2": 0.5, "sr_close_share": 1.0}
    )
    code, out, err = run("--weights", quick.weights)
    assert (code, out, len(err)) == (2, [], 1)
    assert "x_0 of the exported graph is 5.0e-01" in err[0]
    assert everything(here) == []


@pytest.mark.parametrize("package", ["torch", "onnx_ir", "onnxscript"])
def test_a_missing_package_gets_one_line(run, quick, here, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    code, _, err = run("--weights", quick.weights)
    assert code == 2
    assert err == [
        f"lpnsr-export: {package} is not installed; run: pip install 'lpnsr[cpu,export]'"
    ]


def test_a_missing_engine_gets_one_line(run, quick, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, _, err = run("--weights", quick.weights)
    assert (code, len(err)) == (2, 1)
    assert "pip install 'lpnsr[cpu]'" in err[0]
    assert everything(here) == []


def test_an_interrupted_export_says_so(run, quick, here, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(parity, "measure", interrupt)
    assert run("--weights", quick.weights) == (
        130,
        [],
        ["lpnsr-export: interrupted, no bundle was written"],
    )
    assert everything(here) == []


def test_as_a_process(here):
    command = [sys.executable, "-c", "from lpnsr.export.cli import main; raise SystemExit(main())"]
    done = subprocess.run([*command, "-o", "out"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("lpnsr-export: lpnsr needs weights")
