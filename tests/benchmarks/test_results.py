"""The README, the pages of the results and the plots show the figures that are kept."""

import json
from pathlib import Path

import pytest
from PIL import Image

from lpnsr.benchmarks import plots, readme, scaling

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / readme.RESULTS).glob("*.json"))
HINT = "run: python -m lpnsr.benchmarks.readme"


@pytest.mark.parametrize("page", readme.PAGES, ids=str)
def test_the_readmes_show_the_kept_figures(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme.MARKED.search(text)
    assert readme.rendered(text, ROOT) == text, HINT


@pytest.mark.parametrize("file", KEPT, ids=lambda file: file.stem)
def test_pages_and_plots_show_the_kept_figures(file):
    assert file.with_suffix(".md").read_text(encoding="utf-8") == readme.details(file.stem, ROOT), (
        HINT
    )
    if readme.kinds(file.stem)[2]:
        with Image.open(file.with_suffix(".png")) as image:
            assert image.text[plots.DIGEST] == plots.digest(
                json.loads(file.read_text(encoding="utf-8"))
            ), HINT


def test_memory_grows_no_faster_than_the_area_of_a_picture():
    kept = json.loads((ROOT / readme.RESULTS / "scaling.json").read_text(encoding="utf-8"))
    sides = [each["side"] for each in kept["sizes"]]
    assert (min(sides), max(sides)) == (64, 2048)
    assert scaling.exponents(kept)["memory"] < 1.05


def test_a_changed_figure_is_noticed(tmp_path):
    (tmp_path / readme.RESULTS).mkdir(parents=True)
    for file in KEPT:
        text = file.read_text(encoding="utf-8").replace('"cores": 2', '"cores": 3')
        (tmp_path / readme.RESULTS / file.name).write_text(text, encoding="utf-8")
    text = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    assert readme.rendered(text, tmp_path) != text
