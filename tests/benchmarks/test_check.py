"""`lpnsr-bench check`: one page on a model and a machine."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from small import MICRO

from lpnsr.benchmarks import check, cli
from lpnsr.benchmarks.methods import EAGER
from lpnsr.export.check.verify import ParityError
from lpnsr.export.engines import building
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.manifest import Manifest


@pytest.fixture
def photos(tmp_path):
    """Nine pictures, one more than are taken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(9):
        picture = rng.integers(0, 256, (16 + number, 24, 3), np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(tmp_path, monkeypatch, photos):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        base = ["check", "--tile", "16", "--runs", "1", "--photos", str(photos), "-o", "page"]
        return cli.main([*base, *map(str, arguments)])

    return run


@pytest.mark.slow
def test_the_built_in_model(run, tmp_path, capsys):
    assert run("--preset", "lpnsr-tiny") == 0
    kept = json.loads((tmp_path / "page.json").read_text())
    page = (tmp_path / "page.md").read_text()
    assert page == check.describe(kept) + "\n" == capsys.readouterr().out
    assert "# Check of `lpnsr-tiny`" in page
    assert "## 8 pictures, 0.06 output megapixels" in page
    assert len(kept["weights"]) == 3
    for role, (name, digest) in kept["weights"].items():
        assert f"| {role} | `{name}` | `{digest}` |" in page
    assert "**Yes**" in page
    assert "of values within 1/255 of eager PyTorch" in page
    assert {*kept["parity"]} == {"at export", "verified anew"}
    methods, psnr = kept["row"]["seconds"], kept["row"]["psnr"]
    assert next(iter(methods)) == EAGER and len(methods) > 2
    assert all(value > 35 for value in psnr.values())
    assert kept["engines"].keys() == {"tensorrt", "tensorrt-rtx"}


def test_the_page_of_a_bundle(run, tmp_path, monkeypatch):
    """The same without the export, which takes longest: the built-in bundle stands for it."""
    monkeypatch.setattr(check, "pack", lambda *rest, **_: shutil.copytree(BUILTIN, rest[3]))
    monkeypatch.setattr(check, "verify_bundle", lambda bundle, *_: bundle)
    monkeypatch.setattr(check, "PICTURES", 2)
    monkeypatch.setenv("LPNSR_HOME", str(tmp_path / "home"))
    assert run("--preset", "lpnsr-tiny") == 0
    assert not (tmp_path / "home").exists(), "what was compiled is of no use to anybody"
    kept = json.loads((tmp_path / "page.json").read_text())
    page = (tmp_path / "page.md").read_text()
    assert page == check.describe(kept) + "\n"
    assert "## 2 pictures, 0.01 output megapixels" in page
    assert not torch.backends.cudnn.allow_tf32, "eager float32 would not be float32 on a GPU"
    psnr = kept["row"]["psnr"]
    assert next(iter(psnr)) == EAGER and len(psnr) > 2
    assert all(value > 35 for value in psnr.values())


def fails(*_, **__):
    raise ParityError("x_0 is far away")


def test_an_export_out_of_tolerance_is_a_page_too(run, micro, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "pack", fails)
    assert run("--preset", MICRO.name, "--weights", micro.weights) == 1
    assert "**No:** x_0 is far away." in (tmp_path / "page.md").read_text()
    assert json.loads((tmp_path / "page.json").read_text())["failed"] == "x_0 is far away"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "lpnsr"], "--download"),
        (["--preset", "lpnsr-tiny", "--photos", "none"], "none"),
        (["--preset", "lpnsr-tiny", "-o", "photos/0.png/page"], "0.png"),
    ],
)
def test_what_cannot_work_is_told_before_the_work(run, tmp_path, capsys, arguments, message):
    assert run(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.glob("page*"))


def test_the_page_goes_to_a_folder_that_is_made(run, micro, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check, "pack", fails)
    assert run("--preset", MICRO.name, "--weights", micro.weights, "-o", "new/page") == 1
    assert {file.name for file in (tmp_path / "new").iterdir()} == {"page.md", "page.json"}
    assert "new/page.md and new/page.json are written" in capsys.readouterr().err


def test_engines_that_could_not_run_are_not_built(monkeypatch):
    monkeypatch.setattr(building, "present", lambda: "sm_89")
    monkeypatch.setattr(Manifest, "looks_ahead", True)
    failed = check._build_engines(BUILTIN)
    assert failed.keys() == {"tensorrt", "tensorrt-rtx"}
    assert all("draw no noise; use --backend onnxruntime" in why for why in failed.values())


def test_drawings_where_there_are_no_photos(tmp_path):
    drawn = check._pictures(None, tmp_path)
    assert len(drawn) == check.PICTURES
    for file in drawn:
        with Image.open(file) as picture:
            assert picture.size == (check.SIDE, check.SIDE)
