import json
import re

import numpy as np
import pytest
from PIL import Image
from runtime.toy import write_bundle
from selection import slow_but

from lpnsr.benchmarks import cli, folder, report, small
from lpnsr.benchmarks.methods import AUTHORS, CALLS, EAGER


@pytest.mark.parametrize("count", slow_but([1], [1, 2]))
def test_from_file_to_file(tmp_path, capsys, count):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name, size in (("a.png", (24, 40)), ("b.jpg", (40, 24)))[:count]:
        picture = rng.integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "in" / name)
    file = tmp_path / "kept.json"
    assert cli.main(["folder", str(tmp_path / "in"), "--runs", "1", "--json", str(file)]) == 0
    kept = json.loads(file.read_text())
    printed = capsys.readouterr().out
    assert printed == folder.describe(kept) + "\n"
    assert f"{count * 16 * 24 * 40 / 1e6:.2f} output megapixels" in printed
    assert "4.27 times the pictures' pixels" in printed  # 64x64 for 24x40
    seconds, psnr = kept["row"]["seconds"], kept["row"]["psnr"]
    assert {EAGER, EAGER + CALLS, EAGER + AUTHORS, "ONNX Runtime fp32", "OpenVINO fp32"} <= set(
        seconds
    )
    assert psnr[EAGER + CALLS] > 60
    assert psnr["ONNX Runtime fp32"] > 55
    assert psnr[EAGER + AUTHORS] > 20
    factors = report.causes(seconds)["OpenVINO fp32"]
    assert list(factors)[:2] == [
        "padding and tile overlap",
        "unused calls (the noise predictor's last)",
    ]


def test_a_folder_without_pictures_is_refused(tmp_path, capsys):
    assert cli.main(["folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_small_pictures_are_held_against_their_tiles(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(small.measure, "__defaults__", (4,))
    model = write_bundle(tmp_path / "toy", fragile=False)
    assert cli.main(["folder", "--small", "--runs", "1", "--model", str(model)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("4 pictures of 48 to 200 pixels a side, ")
    assert re.search(
        r"\d s from file to file .*alone, one after the other, ratio \d+\.\d{3}$",
        printed,
    )


@pytest.mark.parametrize("arguments", [[], ["pictures", "--small"]])
def test_either_a_folder_or_small_pictures(arguments, capsys):
    assert cli.main(["folder", *arguments]) == 2
    assert "give a folder of pictures, or --small" in capsys.readouterr().err
