"""Pictures of kept results. Each PNG carries the digest of the figures that it shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from lpnsr.benchmarks.count import calls_of
from lpnsr.benchmarks.methods import EAGER
from lpnsr.benchmarks.timing import Row
from lpnsr.models.presets import get_preset

MARKERS = "o^vDP*<>"

DIGEST = "Figures"
"""Name of the PNG's text that holds the digest."""


def digest(kept: Mapping[str, Any]) -> str:
    """What distinguishes one set of figures from another."""
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def stages(kept: Mapping[str, Any], file: Path) -> None:
    """Seconds of a chain in every engine, as bars of its stages."""
    rows = [Row(**row) for row in kept["rows"]]
    calls = calls_of(get_preset(kept["preset"]))
    engines = list(rows[0].seconds)
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(engines) + 1.4))
    left = [0.0] * len(engines)
    for row in rows:
        widths = [calls[row.name] * median(row.seconds[engine]) for engine in engines]
        label = f"{calls[row.name]} x {row.name}" if calls[row.name] > 1 else row.name
        axes.barh(engines, widths, left=left, label=label.replace("_", " "))
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel(f"seconds of one {kept['tile']}x{kept['tile']} tile, {kept['preset']}")
    axes.legend(ncols=3, fontsize="small", loc="upper center", bbox_to_anchor=(0.45, -0.3))
    _save(figure, kept, file)


def scaling(kept: Mapping[str, Any], file: Path) -> None:
    """Time against picture size and against batch, on logarithmic axes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    sides = [each["side"] for each in kept["sizes"]]
    _logarithmic(left, [side**2 for side in sides], [median(e["seconds"]) for e in kept["sizes"]])
    left.set_xticks([side**2 for side in sides], [f"{side}²" for side in sides])
    left.set_xlabel("input pixels")
    batches = [each["batch"] for each in kept["batches"]]
    if batches:
        _logarithmic(right, batches, [median(each["seconds"]) for each in kept["batches"]])
        right.set_xticks(batches, map(str, batches))
    right.set_xlabel("batch of 64x64")
    _save(figure, kept, file)


def speed_against_psnr(kept: Mapping[str, Any], file: Path) -> None:
    """Times as fast as eager PyTorch against the PSNR to it, by method and model."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    colours: dict[str, str] = {}
    for result, marker in zip(kept["results"], cycle(MARKERS), strict=False):
        row = Row(**result["row"])
        eager = median(row.seconds[EAGER])
        for name in row.seconds:
            colour = colours.setdefault(name, f"C{len(colours) % 10}")
            speed, psnr = eager / median(row.seconds[name]), min(row.psnr[name], 160)
            axes.plot(psnr, speed, marker, color=colour)
        axes.plot([], [], marker, color="grey", label=result["label"])
    for name, colour in colours.items():
        axes.plot([], [], "s", color=colour, label=name)
    axes.set_xlabel("PSNR to eager PyTorch, dB (160: the same, or more)")
    axes.set_ylabel("times as fast")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, kept, file)


def _logarithmic(axes: Axes, x: list[float], y: list[float]) -> None:
    axes.loglog(x, y, "o-", label="measured")
    axes.loglog(x, [y[-1] * value / x[-1] for value in x], ":", color="grey", label="linear")
    axes.minorticks_off()
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _save(figure: plt.Figure, kept: Mapping[str, Any], file: Path) -> None:
    figure.savefig(file, dpi=110, bbox_inches="tight", metadata={DIGEST: digest(kept)})
    plt.close(figure)
