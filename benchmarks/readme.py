"""Shows the kept results: `python -m lpnsr.benchmarks.readme`, in the repository's root.

Writes the tables between the markers of README.md and benchmarks/README.md,
`benchmarks/results/*.md` with all details, and the plots, from `benchmarks/results/*.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lpnsr.benchmarks import folder, pages, plots, scaling, stages, training

RESULTS = Path("benchmarks/results")
PAGES = (Path("README.md"), Path("benchmarks/README.md"))
SPEED = ("quick", "tile")
"""Results whose rows make up the table "speed"."""

MARKED = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
"""What stands between two markers; the first names a file of `RESULTS`, without suffix."""

Figures = dict[str, Any]
Show = Callable[[Figures], str]
Plot = Callable[[Figures, Path], None]


def kinds(name: str) -> tuple[Show, Show, Plot | None]:
    """What shows the results `name` in the README, in full, and as a plot."""
    if name.startswith("stages_"):
        return stages.report, stages.report, plots.stages
    if name == "scaling":
        return scaling.summary, scaling.describe, plots.scaling
    if name == "training":
        return training.describe, training.describe, None
    if name == "folder":
        return partial(folder.describe, main=True), folder.describe, None
    return partial(pages.whole, main=True), pages.whole, plots.speed_against_psnr


def shown(name: str, root: Path, main: bool = False) -> str:
    """Markdown of one file of results, or of "speed"; with `main`, the part that READMEs have."""
    if name == "speed":
        return pages.summary([_kept(each, root) for each in SPEED])
    kept = _kept(name, root)
    short, full, _ = kinds(name)
    return (short if main else full)(kept)


def _kept(name: str, root: Path) -> Figures:
    return json.loads((root / RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def rendered(page: str, root: Path) -> str:
    """A README with its tables made anew."""
    return MARKED.sub(lambda m: f"{m[1]}{shown(m[2], root, main=True)}\n{m[3]}", page)


def details(name: str, root: Path) -> str:
    """Content of the results' own page."""
    plot = f"\n![{name}]({name}.png)\n" if kinds(name)[2] else ""
    return f"# {name}\n\n{shown(name, root)}\n{plot}"


def main(root: Path = Path()) -> None:
    """Write everything."""
    for file in sorted((root / RESULTS).glob("*.json")):
        file.with_suffix(".md").write_text(details(file.stem, root), encoding="utf-8")
        plot = kinds(file.stem)[2]
        if plot:
            plot(json.loads(file.read_text(encoding="utf-8")), file.with_suffix(".png"))
    for page in (root / name for name in PAGES):
        page.write_text(rendered(page.read_text(encoding="utf-8"), root), encoding="utf-8")


if __name__ == "__main__":
    main()
