"""A folder of pictures, the command, and what `lpnsr-run` makes of the same."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lpnsr.runtime.command import cli as single

from ..toy import photo

ENGINE = ("--backend", "onnxruntime", "--threads", "1")


def fill(folder: Path, count: int, times: int = 1) -> Path:
    """Pictures of different sizes in a folder and one in it."""
    (folder / "inner").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = photo(times * (10 + 7 * number % 50), times * (20 + 11 * number % 40))
        place = folder / "inner" if number % 3 == 2 else folder
        Image.fromarray(pixels).save(place / f"{number:03}.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, hidden ones included."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def expected(folder: Path, output: Path, bundle: Path, *options: str) -> dict[str, bytes]:
    """What `lpnsr-run` makes of a folder."""
    command = [str(folder), "-o", str(output), "--model", str(bundle), *ENGINE, "-q", *options]
    assert single.main(command) in (0, 1)
    return contents(output)


@pytest.fixture
def bulk(tmp_path, bundle):
    """Calls the command for a run in `tmp_path`; `code` is what it should return."""
    from lpnsr.runtime.bulk import cli

    def call(name, *arguments, code=0):
        command = [name, *map(str, arguments)]
        if name in ("run", "plan"):
            command += ["--model", str(bundle), *ENGINE]
        elif name == "work":
            command += ["--threads", "1"]
        if "--run" not in command:
            command += ["--run", str(tmp_path / "run")]
        assert cli.main(command) == code

    return call


@pytest.fixture
def lines(bulk, tmp_path):
    """The lines of the run's report."""

    def read():
        bulk("report", "-o", tmp_path / "report.jsonl")
        text = (tmp_path / "report.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    return read
