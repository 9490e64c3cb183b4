"""Whole runs of the command over folders: every option, interruptions, kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.command import cli
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.pictures.images import read
from lpnsr.runtime.upscaler import Upscaler

from .samples import SAMPLES, write_all
from .toy import photo

ENGINE = ("--backend", "onnxruntime")


@pytest.fixture
def run(tmp_path, calm_bundle, monkeypatch, capfd):
    """Runs the command in an empty folder; gives exit code and lines on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main([*ENGINE, *arguments, "--model", str(calm_bundle)])
        return code, capfd.readouterr().err.splitlines()

    return run


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "tiff"])
def test_every_kind_of_picture_into_every_format(tmp_path, calm_bundle, run, kind):
    write_all(tmp_path / "in")
    code, errors = run("in", "-o", "out", "--format", kind)
    assert code == 0
    dropped = {line.split("dropped")[0].split(": ", 3)[3].strip() for line in errors}
    allowed = {"jpeg": "16-bit depth, transparency", "webp": "16-bit depth"}
    assert all(set(text.split(", ")) <= set(allowed[kind].split(", ")) for text in dropped)
    assert len(files(tmp_path / "out")) == len(SAMPLES)
    model = Upscaler.from_bundle(calm_bundle)
    for name, (_, pixels) in SAMPLES.items():
        stem, suffix = name.rsplit(".", 1)
        shared = sum(other.rsplit(".", 1)[0] == stem for other in SAMPLES) > 1
        new = {"png": "png", "jpeg": "jpg", "webp": "webp", "tiff": "tif"}[kind]
        path = tmp_path / "out" / f"{stem}{'_' + suffix if shared else ''}.{new}"
        found = read(path).pixels
        assert found.shape[:2] == tuple(4 * side for side in pixels.shape[:2])
        if kind in ("png", "tiff"):
            assert found.dtype == pixels.dtype and found.shape[2] == pixels.shape[2]
            if pixels.shape[2] == 3:  # pixel for pixel what the library gives
                np.testing.assert_array_equal(found, model.upscale(pixels))


ORDINARY = ["rgb.png", "grey.png", "rgb.jpg", "grey.jpg", "rgb.webp", "rgb.tif", "rgb.bmp"]


@pytest.mark.parametrize("kind", FORMATS)
def test_ordinary_pictures_are_what_pillow_and_the_library_make(tmp_path, calm_bundle, run, kind):
    """Pixel for pixel: open with Pillow, upscale with the API, save with Pillow."""
    os.mkdir("in")
    for name in ORDINARY:
        (tmp_path / "in" / name).write_bytes(SAMPLES[name][0])
    visible = np.dstack([photo(40, 50), photo(40, 50)[..., 1] // 2 + 100])
    Image.fromarray(visible).save("in/visible.png")
    names = ORDINARY if kind == "jpeg" else [*ORDINARY, "visible.png"]
    options = {"webp": {"lossless": True, "quality": 100}, "jpeg": {"quality": 100}}.get(kind, {})
    model = Upscaler.from_bundle(calm_bundle)
    for name in names:
        assert run(f"in/{name}", "-o", f"{name}-out", "--format", kind, "--quality", "100")[0] == 0
        with Image.open(f"in/{name}") as image:
            plain, mode = np.asarray(image.convert("RGB")), image.mode
        large = Image.fromarray(model.upscale(plain)).convert(mode)
        if mode == "RGBA":
            size, alpha = large.size, visible[..., 3].astype(np.float32)
            cubic = cv2.resize(alpha, size, interpolation=cv2.INTER_CUBIC)
            large.putalpha(Image.fromarray(cubic.clip(0, 255).round().astype(np.uint8)))
        large.save(f"expected.{kind}", **options)
        (path,) = (tmp_path / f"{name}-out").iterdir()
        with Image.open(path) as found, Image.open(f"expected.{kind}") as expected:
            assert found.mode == expected.mode and found.format == expected.format
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected), err_msg=name)


def test_scale_and_side_and_names(tmp_path, run):
    os.makedirs("in/sub")
    Image.fromarray(photo(20, 30)).save("in/a.png")
    Image.fromarray(photo(10, 10)).save("in/sub/b.jpg")
    options = ["--scale", "2.5", "--max-side", "60", "--suffix", "_big", "--pattern", "*"]
    assert run("in", "-o", "out", *options) == (0, [])
    assert files(tmp_path / "out") == ["a_big.png", "sub/b_big.png"]
    with Image.open("out/a_big.png") as image:
        assert image.size == (60, 40)
    with Image.open("out/sub/b_big.png") as image:
        assert image.size == (25, 25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "0.5"], "'0.5' is not a number from 1 to 4"),
        (["--scale", "nan"], "'nan' is not a number"),
        (["--quality", "101"], "'101' is not a whole number, 1 to 100"),
        (["--max-side", "0"], "'0' is not a whole number, 1 or more"),
        (["--max-megapixels", "0"], "is not a number from 0.001"),
        (["--suffix", "a/b"], "'a/b' is not part of a file name"),
        (["--overwrite", "--skip-existing"], "not allowed with"),
        (["--format", "gif"], "gif"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, run, capfd, arguments, message):
    with pytest.raises(SystemExit) as stop:
        run("a.png", "-o", "out", *arguments)
    assert stop.value.code == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("lpnsr-run: ") and message in line


def test_limits_are_refused_before_anything_is_computed(tmp_path, run, monkeypatch):
    def compute(*_, **__):
        raise AssertionError

    monkeypatch.setattr(Upscaler, "bands", compute)
    Image.fromarray(np.zeros((5000, 2), np.uint8)).save("long.png")
    code, (error,) = run("long.png", "-o", "out", "--format", "webp")
    assert code == 2 and "long.png: the output would have 8x20000 pixels, WEBP holds" in error
    code, (error,) = run("long.png", "-o", "out", "--max-megapixels", "0.009")
    assert code == 2 and "over 0.009 million pixels" in error
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 10**5}))
    code, (error,) = run("long.png", "-o", "out")
    assert code == 2 and "long.png: needs " in error and "0.0 GB are free" in error
    assert not (tmp_path / "out").exists()


def test_the_report(tmp_path, run):
    os.mkdir("in")
    Image.fromarray(photo(20, 30)).save("in/a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"hello")
    code, _ = run("in", "-o", "out", "--report", "deep/run.json", "--seed", "7")
    assert code == 1
    good, bad = json.loads((tmp_path / "deep" / "run.json").read_text())["pictures"]
    seconds = good.pop("seconds")
    assert set(seconds) == {"decode", "compute", "encode"}
    assert all(isinstance(spent, float) for spent in seconds.values())
    assert good.pop("backend").startswith("ONNX Runtime")
    assert good == {
        "input": "in/a.png",
        "output": "out/a.png",
        "input_size": [20, 30],
        "output_size": [80, 120],
        "lost": [],
        "sha256": hashlib.sha256((tmp_path / "out" / "a.png").read_bytes()).hexdigest(),
        "seed": 7,
        "model": "toy",
        "variant": {},
    }
    assert bad["input"] == "in/b.png" and "is not a picture" in bad["error"]
    assert bad["seed"] == 7 and "sha256" not in bad


def test_pictures_that_are_not_read_are_named_once_and_counted(tmp_path, run):
    os.mkdir("in")
    Image.fromarray(photo(20, 30)).save("in/a.png")
    for name in ("a.nef", "b.psd"):
        (tmp_path / "in" / name).write_bytes(b"whatever")
    code, errors = run("in", "-o", "out", "--report", "run.json")
    raw = "in/a.nef is a camera's raw file; develop it, and save it as TIFF or JPEG"
    other = "in/b.psd is of a kind that is not read (PSD); convert it to PNG or TIFF"
    assert code == 1 and errors == [
        f"lpnsr-run: {raw}",
        f"lpnsr-run: {other}",
        "lpnsr-run: 2 of 3 pictures are of kinds that are not read",
    ]
    assert files(tmp_path / "out") == ["a.png"]
    _, *unread = json.loads((tmp_path / "run.json").read_text())["pictures"]
    assert unread == [{"input": "in/a.nef", "error": raw}, {"input": "in/b.psd", "error": other}]
    assert run("in/a.nef", "-o", "big.png") == (2, [f"lpnsr-run: {raw}"])
    assert run("in", "-o", "out2", "--pattern", "*.png") == (0, [])


def test_existing_outputs_are_skipped(tmp_path, run):
    os.mkdir("in")
    for name in "abc":
        Image.fromarray(photo(20, 30)).save(f"in/{name}.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_bytes(b"kept")
    said = "lpnsr-run: 1 of 3 pictures exist and are skipped"
    options = ["--skip-existing", "--report", "run.json"]
    assert run("in", "-o", "out", *options) == (0, [said])
    assert (tmp_path / "out" / "b.png").read_bytes() == b"kept"
    *done, skipped = json.loads((tmp_path / "run.json").read_text())["pictures"]
    assert [picture["input"] for picture in done] == ["in/a.png", "in/c.png"]
    assert skipped == {"input": "in/b.png", "output": "out/b.png", "skipped": True}
    said = "lpnsr-run: 3 of 3 pictures exist and are skipped"
    assert run("in", "-o", "out", "--skip-existing") == (0, [said])


def test_names_of_any_encoding_are_said(tmp_path, run):
    os.mkdir("in")
    Image.fromarray(photo(20, 30)).save(os.fsdecode(b"in/gr\xfcn.png"))
    for name in (b"br\xf6ken.png", "kaputt\u00e9\n.png".encode()):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(b"hello")
    code, errors = run("in", "-o", "out", "--report", "run.json")
    assert code == 1 and len(errors) == 5
    assert any("br\\udcf6ken.png is not a picture" in error for error in errors)
    assert os.listdir(b"out") == [b"gr\xfcn.png"]
    pictures = json.loads((tmp_path / "run.json").read_text())["pictures"]
    assert os.fsdecode(b"out/gr\xfcn.png") in [picture["output"] for picture in pictures]


def test_a_name_that_is_too_long_does_not_end_the_run(tmp_path, run):
    os.mkdir("in")
    for name in ("a" * 250, "b"):
        Image.fromarray(photo(20, 30)).save(f"in/{name}.png")
    code, errors = run("in", "-o", "out", "--suffix", "_upscaled")
    assert code == 1 and "File name too long" in errors[0]
    assert files(tmp_path / "out") == ["b_upscaled.png"]


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of 24 pictures of a second of work, all in all."""
    folder = tmp_path_factory.mktemp("many") / "in"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(np.roll(photo(90, 110), number, axis=0)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def expected(many, bundle):
    """Name of each output of `many` -> its content."""
    assert (
        cli.main([*ENGINE, str(many), "-o", str(many.parent / "whole"), "--model", str(bundle)])
        == 0
    )
    return {path.name: path.read_bytes() for path in (many.parent / "whole").iterdir()}


def start(many, out, bundle):
    command = [sys.executable, "-m", "lpnsr.runtime.command.cli", str(many), "-o", str(out)]
    command += [*ENGINE, "--model", str(bundle), "--skip-existing", "--threads", "1"]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def finished(out):
    return {path.name: path for path in out.glob("[0-9]*.png")}


def wait_for_more(process, out, before):
    while len(finished(out)) <= before and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_clean_and_resumes(tmp_path, many, bundle, expected, number):
    process = start(many, tmp_path, bundle)
    wait_for_more(process, tmp_path, 2)
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 128 + number
    done = finished(tmp_path)
    assert 2 < len(done) < 24
    assert errors == [
        f"lpnsr-run: interrupted after {len(done)} of 24 pictures; to resume, "
        "run the same command with --skip-existing"
    ]
    assert sorted(os.listdir(tmp_path)) == sorted(done), "a temporary file is left"
    process = start(many, tmp_path, bundle)
    assert process.communicate(timeout=60)[1].startswith(f"lpnsr-run: {len(done)} of 24 pictures")
    assert process.returncode == 0
    assert {name: path.read_bytes() for name, path in finished(tmp_path).items()} == expected


def test_kills_leave_no_output_or_a_whole_one(tmp_path, many, bundle, expected):
    rng, kills = np.random.default_rng(0), 0
    while True:
        process = start(many, tmp_path, bundle)
        wait_for_more(process, tmp_path, len(finished(tmp_path)) + 1)
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.communicate()
        for name, path in finished(tmp_path).items():
            assert path.read_bytes() == expected[name]
        if process.returncode == 0:
            break
        kills += 1
    assert kills >= 3 and len(finished(tmp_path)) == 24
