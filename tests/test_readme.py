"""The README's examples run, and its figures are those that the scripts print."""

import re
import shlex
from pathlib import Path

from lpnsr.benchmarks import quality
from lpnsr.runtime import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language, contains):
    blocks = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    (found,) = [text for text in blocks if contains in text]
    return found


def test_the_first_command_upscales_the_example(tmp_path, monkeypatch):
    command = block("sh", "lighthouse_small.png -o").split("&&")[1]
    name, *arguments = shlex.split(command)
    assert name == "lpnsr-run"
    (ROOT / arguments[0]).resolve(strict=True)
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(ROOT / arguments[0]), *arguments[1:]]) == 0
    assert (tmp_path / arguments[-1] / "lighthouse_small.png").is_file()


def test_the_python_example_runs(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {}
    exec(block("python", "Upscaler"), names)
    height, width, _ = names["small"].shape
    assert names["large"].shape == (4 * height, 4 * width, 3)


def test_the_quality_table_is_what_the_script_prints(capsys):
    quality.main([str(photo) for photo in sorted((ROOT / "tests/photos").glob("kodim*.png"))])
    printed = [re.split(r"\s*\|\s*", line) for line in capsys.readouterr().out.splitlines()]
    for row in printed[2:]:
        (stated,) = [
            re.split(r"\s*\|\s*", line) for line in README.splitlines() if f"| {row[1]} |" in line
        ]
        for ours, theirs in zip(row[2:-1], stated[2:-1], strict=True):
            # Other processors round otherwise.
            assert abs(number(ours) - number(theirs)) <= 0.02 * max(1, abs(number(ours)) / 10)


def number(text):
    return float(re.match(r"[-+]?[\d.]+", text)[0])
