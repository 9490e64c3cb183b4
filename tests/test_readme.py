"""The README's examples run, and its figures are those that the scripts print."""

import ast
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpnsr.benchmarks import cli as benchmarks
from lpnsr.export import cli as export
from lpnsr.models.training import cli as training
from lpnsr.runtime.bulk import cli as bulk
from lpnsr.runtime.command import arguments, cli
from lpnsr.runtime.serve import cli as serve

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    file
    for folder in ("", "benchmarks", "export", "models", "runtime", "tests")
    for file in sorted((ROOT / folder).glob("**/README.md" if folder else "README.md"))
]


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


def test_the_runtimes_examples_run(tmp_path, monkeypatch):
    with Image.open(ROOT / "tests/photos/lighthouse_small.png") as image:
        image.convert("RGB").crop((0, 0, 60, 40)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "runtime/README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(examples) == 3
    names = {}
    for example in examples:
        exec(example, names)
    with Image.open("large.png") as image:
        np.testing.assert_array_equal(np.asarray(image), names["same"])
    assert (names["double"].shape, names["double"].dtype) == ((3, 96, 128, 3), np.uint8)
    assert names["large"].shape == (3, 192, 256) and names["large"].min() >= 0
    assert names["large"].max() <= 1 and str(names["large"].dtype) == "torch.float32"
    assert [type(each) for each in names["several"]] == [np.ndarray, Image.Image]


def test_it_is_short():
    assert len(README.split()) <= 1500


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_it_links_to_is_there(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if "//" not in link and not (page.parent / link).exists()] == []


def test_the_messages_in_troubleshooting_are_said():
    said = "\n".join(
        node.value
        for folder in ("export", "runtime")
        for file in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    text = (ROOT / "runtime/README.md").read_text(encoding="utf-8")
    table = rows(text.split("## Troubleshooting\n")[1])[2:]
    assert len(table) >= 10
    for cell, *_ in table:
        quoted = re.findall(r"`(.+?)`", cell)
        assert quoted
        for part in (part.strip() for message in quoted for part in message.split("…")):
            assert part in said, part


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "title"),
    [("README.md", "The built-in model"), ("runtime/README.md", "Other scales than 4")],
)
def test_the_quality_tables_are_what_the_commands_print(tmp_path, monkeypatch, capsys, file, title):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "brisque", None)  # the READMEs go without it
    text = (ROOT / file).read_text(encoding="utf-8")
    section = text.split(f"## {title}\n")[1].split("\n## ")[0]
    (commands,) = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    for command in commands.splitlines():
        name, *words = shlex.split(command)
        found = [sorted(map(str, ROOT.glob(word))) if "*" in word else [word] for word in words]
        main = {"lpnsr-bench": benchmarks.main, "lpnsr-train": training.main}[name]
        assert main([word for words in found for word in words]) == 0
    printed = rows(capsys.readouterr().out)
    for ours, theirs in zip(printed, rows(section), strict=True):
        for our, their in zip(ours, theirs, strict=True):
            value = re.fullmatch(r"([-+]?[\d.]+)(%| dB|)", our)
            if value is None:
                assert our == their
            else:
                # Other processors round otherwise.
                assert abs(float(value[1]) - number(their)) <= (1 if value[2] == "%" else 0.02)


def rows(text):
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line[:1] == "|"]


def number(text):
    return float(re.match(r"[-+]?[\d.]+", text)[0])


PARSERS = {
    "lpnsr-run": arguments.parse,
    "lpnsr-export": export._parse,
    "lpnsr-serve": lambda words: serve._parser().parse_args(words),
    "lpnsr-bulk": lambda words: bulk._parser().parse_args(words),
}


@pytest.mark.parametrize("file", [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/**/README.md"))])
def test_the_commands_are_understood(file):
    text = re.sub(r"\\?\n +(?=--)", " ", file.read_text(encoding="utf-8"))  # of one command
    code = "".join(re.findall(r"```(?:sh|yaml)\n(.*?)```", text, flags=re.DOTALL))
    code = re.sub(r"(?m)(^| )#.*$", "", code)
    for line in re.findall(r"(?<![\w/.\[])lpnsr-[a-z]+(?: [^\n&|>']+)?", code):
        name, *words = shlex.split(re.sub(r"\$[A-Z_]+", "3", line))
        if name in PARSERS:
            try:
                PARSERS[name](words)
            except SystemExit as end:
                assert end.code in (0, None), line
