import re
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.backends.onnxruntime import OnnxRuntimeSession
from lpnsr.runtime.command import cli
from lpnsr.runtime.manifest import MANIFEST
from lpnsr.runtime.upscaler import Upscaler

from .toy import photo


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder that holds `a.png`, 40 x 50 pixels."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    Image.fromarray(photo(40, 50)).save("a.png")
    return folder


@pytest.fixture
def run(here, bundle, capfd):
    """Runs the command with the toy model; gives exit code and lines on stderr.

    Standard output has a line for each picture.
    """

    def run(*arguments, model=bundle):
        try:
            code = cli.main(["--backend", "onnxruntime", *arguments, "--model", str(model)])
        except SystemExit as stop:
            code = stop.code
        out, err = capfd.readouterr()
        assert all(re.fullmatch(r".+ -> .+: \d+x\d+, \d+\.\d s", line) for line in out.splitlines())
        return code, err.splitlines()

    return run


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_one_picture(here, bundle, run):
    assert run("a.png", "-o", "out/big.png", "--seed", "3") == (0, [])
    expected = Upscaler.from_bundle(bundle).upscale(photo(40, 50), seed=3)
    np.testing.assert_array_equal(pixels("out/big.png"), expected)
    assert files(here) == ["a.png", "out/big.png"]


def test_a_folder_with_a_bad_picture_goes_on(here, run):
    (here / "in" / "sub").mkdir(parents=True)
    for name in ("in/1.jpg", "in/sub/3.webp"):
        Image.fromarray(photo(20, 30)).save(name)
    (here / "in" / "2.png").write_bytes(b"hello")
    (here / "in" / "4.png").touch()
    code, errors = run("in", "-o", "out")
    assert code == 1
    assert errors == [
        "lpnsr-run: in/2.png is not a picture; convert it to one of BMP, JPEG, PNG, TIFF, WEBP",
        "lpnsr-run: in/4.png is empty; replace it by a picture",
        "lpnsr-run: 2 of 4 pictures failed:",
        "lpnsr-run:   in/2.png is not a picture; convert it to one of BMP, JPEG, PNG, TIFF, WEBP",
        "lpnsr-run:   in/4.png is empty; replace it by a picture",
    ]
    assert files(here / "out") == ["1.png", "sub/3.png"]


def test_options_reach_the_model(here, bundle, run):
    options = ["--tile", "32x64", "--batch", "3", "--overlap", "8", "--threads", "1"]
    options += ["--deterministic", "--no-color-fix", "--backend", "onnxruntime"]
    assert run("a.png", "-o", "out", *options) == (0, [])
    assert cv2.getNumThreads() == 1
    model = Upscaler.from_bundle(bundle, tile=(32, 64), batch=3, overlap=8)
    expected = model.upscale(photo(40, 50), deterministic=True, color_fix=False)
    np.testing.assert_array_equal(pixels("out/a.png"), expected)


def test_overwrite(here, run):
    assert run("a.png", "-o", "out")[0] == 0
    before = (here / "out" / "a.png").read_bytes()
    code, errors = run("a.png", "-o", "out", "--seed", "1")
    assert (code, errors) == (
        2,
        [
            "lpnsr-run: out/a.png exists; "
            "add --skip-existing or --overwrite, or choose another output"
        ],
    )
    assert (here / "out" / "a.png").read_bytes() == before
    assert run("a.png", "-o", "out", "--seed", "1", "--overwrite") == (0, [])
    assert (here / "out" / "a.png").read_bytes() != before


def test_what_is_lost_is_said(here, run):
    alpha = np.full((20, 30, 1), 99, np.uint8)
    Image.fromarray(np.dstack([photo(20, 30), alpha])).save("t.png")
    said = "lpnsr-run: warning: t.png: transparency dropped"
    assert run("t.png", "-o", "out", "--format", "jpeg") == (0, [said])
    Image.fromarray(np.dstack([photo(20, 30), alpha * 0 + 255])).save("t.png")
    assert run("t.png", "-o", "out", "--format", "jpeg", "--overwrite") == (0, [])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: INPUT; see lpnsr-run --help"),
        (["a.png", "-o", "out", "--seed", "-1"], "'-1' is not a whole number, 0 to"),
        (["a.png", "-o", "out", "--seed", str(2**64)], "is not a whole number, 0 to"),
        (["a.png", "-o", "out", "--seed", "x"], "'x' is not a whole number"),
        (["a.png", "-o", "out", "--seed", "٦"], "'٦' is not a whole number"),
        (["a.png", "-o", "out", "--seed", "1_0"], "'1_0' is not a whole number"),
        (["a.png", "-o", "out", "--batch", "9" * 5000], "is not a whole number, 1 or more"),
        (["a.png", "-o", "out", "--scale", "٢"], "'٢' is not a number from 1 to 4"),
        (["a.png", "-o", "out", "--batch", "0"], "'0' is not a whole number, 1 or more"),
        (["a.png", "-o", "out", "--tile", "64x"], "'64x' is not a tile size such as 64 or 128x64"),
        (["a.png", "-o", "out", "--tile", "0x0"], "'0x0' is not a tile size"),
        (["a.png", "-o", "out", "--tile", "٦٤"], "is not a tile size"),
        (["a.png", "-o", "out", "--tile", "72"], "lpnsr-export --tile 72x72"),
        (["a.png", "-o", "out", "--batch", "2"], "--batch 2"),
        (["a.png", "-o", "out", "--overlap", "30"], "choose 0 to 24"),
        (["a.png", "-o", "out", "--backend", "abacus"], "abacus"),
        (["a.png", "-o", "out", "--sed", "--nonsense"], "see lpnsr-run --help"),
        (["b.png", "-o", "out"], "b.png does not exist"),
        (["empty", "-o", "out"], "empty holds no picture"),
        (["a.png", "-o", "a.png/out"], "cannot write to a.png"),
        (["a.png", "-o", "a.png", "--overwrite"], "is the input"),
        (["bad.png", "-o", "out"], "bad.png is not a picture"),
        (["a.png", "-o", "out", "--report", "./a.png"], "a.png is one of the pictures"),
        (["a.png", "-o", "out", "--report", "out/a.png"], "out/a.png is one of the pictures"),
        (["a.png", "-o", "out", "--report", "empty"], "empty is a folder"),
    ],
)
def test_bad_input_gets_one_line(here, run, arguments, message):
    (here / "empty").mkdir()
    (here / "bad.png").write_bytes(b"hello")
    code, errors = run(*arguments)
    assert code == 2
    assert len(errors) == 1, errors
    assert errors[0].startswith("lpnsr-run: ") and message in errors[0]
    assert files(here) == ["a.png", "bad.png"] and not (here / "out").exists()


def damage_manifest(path):
    (path / MANIFEST).write_text("{")


def damage_graph(path):
    next(path.glob("*.onnx")).write_bytes(b"")


def remove_graph(path):
    next(path.glob("*.onnx")).unlink()


def remove_manifest(path):
    (path / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_manifest, "is damaged"),
        (damage_graph, "does not match its SHA-256"),
        (remove_graph, "is missing"),
        (remove_manifest, "is not a bundle"),
    ],
)
def test_a_damaged_bundle_gets_one_line(here, run, own_bundle, damage, message):
    model = own_bundle()
    damage(model)
    code, errors = run("a.png", "-o", "out", model=model)
    assert code == 2 and len(errors) == 1
    assert message in errors[0]
    assert files(here) == ["a.png"]


def test_no_engine_gets_one_line(here, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, errors = run("a.png", "-o", "out")
    assert code == 2 and len(errors) == 1
    assert 'pip install "lpnsr[cpu]"' in errors[0]


def test_values_that_are_not_finite_name_picture_and_tile(here, run):
    Image.fromarray(np.full((40, 40, 3), 255, np.uint8)).save("white.png")
    code, errors = run("white.png", "-o", "out")
    assert code == 2 and len(errors) == 1
    assert errors[0].startswith("lpnsr-run: white.png: the model returns NaN or infinity")


def scarce(monkeypatch, pixels):
    """Let the engine run out of memory with more input pixels than this at once."""
    run, sizes = OnnxRuntimeSession.run, []

    def exhausted(self, lr, noise):
        sizes.append(lr.shape)
        if lr.shape[0] * lr.shape[2] * lr.shape[3] > pixels:
            raise MemoryError
        return run(self, lr, noise)

    monkeypatch.setattr(OnnxRuntimeSession, "run", exhausted)
    return sizes


def test_too_little_memory_names_the_picture(here, run, monkeypatch):
    scarce(monkeypatch, 0)
    code, errors = run("a.png", "-o", "out", "--tile", "32x32", "--batch", "3")
    assert code == 2
    assert errors == [
        "lpnsr-run: memory has run out with tile 32x32 batch 3; going on with tile 32x32 batch 1",
        "lpnsr-run: a.png: not enough memory; crop or split the picture",
    ]
    assert files(here) == ["a.png"]


def test_with_little_memory_batch_then_tile_are_reduced_and_said_once(
    here, run, bundle, monkeypatch
):
    for name in ("b.png", "c.png"):
        Image.fromarray(photo(60, 60)).save(name)
    sizes = scarce(monkeypatch, 2500)
    code, errors = run("b.png", "c.png", "-o", "out", "--tile", "64", "--batch", "3")
    assert code == 0
    assert errors == [
        "lpnsr-run: memory has run out with tile 64x64 batch 3; going on with tile 64x64 batch 1",
        "lpnsr-run: memory has run out with tile 64x64 batch 1; going on with tile 32x64 batch 1",
    ]
    # Each picture is tried as if the other had not been there, but they may share the first batch.
    tried = [shape for shape in sizes if shape[2] == 64]
    assert set(tried) == {(3, 3, 64, 64), (1, 3, 64, 64)}
    assert tried.count((1, 3, 64, 64)) == 2
    expected = Upscaler.from_bundle(bundle, tile=(32, 64)).upscale(photo(60, 60))
    for name in ("b.png", "c.png"):
        np.testing.assert_array_equal(pixels(here / "out" / name), expected)
    assert files(here / "out") == ["b.png", "c.png"]


def test_without_threads_there_is_one_line(here, run, monkeypatch):
    def exhausted(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", exhausted)
    code, errors = run("a.png", "-o", "out")
    assert code == 2
    assert errors[-1].startswith("lpnsr-run: the system refuses to start threads (can't start")
    assert files(here) == ["a.png"]


def test_a_failing_write_is_one_line(here, run, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    code, errors = run("a.png", "-o", "out")
    assert code == 2 and len(errors) == 1
    assert "No space left on device" in errors[0]
    assert files(here) == ["a.png"]


def test_debug_shows_the_traceback(here, run):
    (here / "bad.png").write_bytes(b"hello")
    for arguments in (["bad.png", "-o", "out"], ["none.png", "-o", "out"]):
        code, errors = run(*arguments, "--debug")
        assert code == 2
        assert errors[0].startswith("Traceback") or "Traceback (most recent call last):" in errors
        assert errors[-1].startswith("lpnsr-run: ")


def test_version_and_help(capsys):
    for option, text in (("--version", "lpnsr-run "), ("--help", "--deterministic")):
        with pytest.raises(SystemExit) as stop:
            cli.main([option])
        assert stop.value.code == 0
        assert text in capsys.readouterr().out


def test_as_a_process(here, bundle):
    command = [sys.executable, "-m", "lpnsr.runtime.command.cli", "a.png", "-o", "out", "--model"]
    good = subprocess.run([*command, str(bundle)], capture_output=True, text=True)
    assert good.returncode == 0
    assert re.fullmatch(r"a\.png -> out/a\.png: 200x160, \d+\.\d s\n", good.stdout)
    assert re.fullmatch(r"lpnsr-run: runs with (ONNX|Open).* \(.+\)\n", good.stderr)
    assert pixels("out/a.png").shape == (160, 200, 3)
    bad = subprocess.run([*command, "none", "--overwrite"], capture_output=True, text=True)
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.splitlines() == [
        "lpnsr-run: none is not a bundle (no manifest.json); make one with lpnsr-export"
    ]
