"""Damaged files, through the whole command."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from selection import slow_but

from lpnsr.runtime.command import cli

from .samples import SAMPLES


def damaged(content, count):
    """The content truncated at many places, and with many random bytes changed."""
    cuts = np.linspace(0, len(content) - 1, count).astype(int)
    yield from (content[:cut] for cut in cuts)
    rng = np.random.default_rng(0)
    for _ in range(count):
        flipped = bytearray(content)
        flipped[rng.integers(len(content))] ^= int(rng.integers(1, 256))
        yield bytes(flipped)


@pytest.fixture
def folder():
    """An empty folder, in memory where that is possible: up to 800 small files are written."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("count", slow_but([20], [20, 200]))
@pytest.mark.timeout(300)
def test_damage_gives_a_picture_or_one_line(folder, calm_bundle, capfd, monkeypatch, count, name):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # takes most of the time
    (folder / "in").mkdir()
    suffix = name[name.index(".") :]
    for number, content in enumerate(damaged(SAMPLES[name][0], count)):
        (folder / "in" / f"{number}{suffix}").write_bytes(content)
    command = [folder / "in", "-o", folder / "out", "--report", folder / "run.json"]
    options = ["--model", calm_bundle, "--tile", "32", "--batch", "1", "--max-megapixels", "0.01"]
    options += ["--backend", "onnxruntime", "--quiet"]
    code = cli.main([str(argument) for argument in command + options])
    out, err = capfd.readouterr()
    assert code == 1 and out == ""
    assert all(line.startswith("lpnsr-run: ") for line in err.splitlines())
    pictures = json.loads((folder / "run.json").read_text())["pictures"]
    assert len(pictures) == 2 * count
    failed = [picture for picture in pictures if "error" in picture]
    for picture in failed:
        assert "\n" not in picture["error"] and not os.path.exists(picture["output"])
        assert err.count(picture["input"]) >= 2, "it is not both reported and in the summary"
    written = {picture["output"] for picture in pictures if "error" not in picture}
    assert written == {str(path) for path in folder.glob("out/*")}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10**6)
    for path in written:
        with Image.open(path) as image:
            image.load()
