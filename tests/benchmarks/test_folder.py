import json

import numpy as np
import pytest
from PIL import Image
from selection import slow_but

from lpnsr.benchmarks import cli, folder, report
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
    assert {EAGER, EAGER + CALLS, EAGER + AUTHORS, "ONNX Runtime f32", "OpenVINO f32"} <= set(
        seconds
    )
    assert psnr[EAGER + CALLS] > 60
    assert psnr["ONNX Runtime f32"] > 55
    assert psnr[EAGER + AUTHORS] > 20
    factors = report.causes(seconds)["OpenVINO f32"]
    assert list(factors)[:2] == [
        "padding and tile overlap",
        "unused calls (the noise predictor's last)",
    ]


def test_a_folder_without_pictures_is_refused(tmp_path, capsys):
    assert cli.main(["folder", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
