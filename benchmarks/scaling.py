"""Time and memory against picture area and against batch.

Pictures of every size run in a process of their own, through `lpnsr-run`'s tiles. The fitted
exponent is the slope of the least-squares line through logarithms: 1 is linear in area. Memory is
what a picture adds to the peak of its corner, one tile; it is fitted from the size on at which it
counts. Batches are fed to graphs exported for them.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from lpnsr.benchmarks import isolated, machine
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.measure import build_chain
from lpnsr.benchmarks.timing import seconds, spread
from lpnsr.export.check.verify import random_input
from lpnsr.export.pack import pack
from lpnsr.models.presets import get_preset
from lpnsr.runtime import backends
from lpnsr.runtime.backends.session import Backend
from lpnsr.runtime.bundle import BUILTIN, Bundle

SIDES = (64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 2, 4, 8)
COUNTED = 2**25
"""Bytes that a picture adds from which on memory is fitted: less is lost in what is there."""

TIMED = 10.0
"""Seconds of a picture beyond which one run must do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench scaling`."""
    add = parser.add_argument
    add("--sides", type=int, nargs="+", default=SIDES, help="of square pictures, in pixels")
    add("--batches", type=int, nargs="*", default=BATCHES, help="of 64x64 tiles; none to skip")
    add("--backend", choices=backends.NAMES, default="auto", help="default: the fastest")
    add("--precision", choices=backends.PRECISIONS, default="auto")
    add("--runs", type=int, default=5, help="timed runs of what is quick (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--plot", type=Path, metavar="FILE", help="draw them on log axes there, a .png")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    about = machine.environment()
    bundle = Bundle.open(BUILTIN)
    accurate = set.intersection(*(set(graph.precisions) for graph in bundle.manifest.graphs))
    graphs = bundle.manifest.graphs
    engine, why = backends.create(args.backend, None, args.precision, accurate, bundle, graphs)
    kept: dict[str, Any] = {"machine": about, "engine": f"{engine.describe()} ({why})"}
    kept |= {"sizes": [], "batches": []}
    with tempfile.TemporaryDirectory() as cache:
        runs = args.runs
        for side in args.sides:
            task = isolated.Trial(
                str(BUILTIN), args.backend, args.precision, (side, side), cache, runs
            )
            print(f"{side}x{side}", file=sys.stderr)
            kept["sizes"].append(_size(side, isolated.measure(task)))
            # The next picture takes about four times as long.
            runs = runs if 4 * median(kept["sizes"][-1]["seconds"]) < TIMED else 1
            _write(args.json, kept)
        if args.batches:
            kept["batches"] = _batches(args.batches, engine, args.runs, Path(cache) / "bundle")
    _write(args.json, kept)
    print(describe(kept))
    if args.plot:
        from lpnsr.benchmarks import plots

        plots.scaling(kept, args.plot)
    return 0


def _write(file: Path | None, kept: dict) -> None:
    """Keep what there is, also if the rest is interrupted."""
    if file:
        file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _size(side: int, found: isolated.Measured) -> dict:
    return {
        "side": side,
        "seconds": found.seconds,
        "memory": found.memory,
        "added": found.memory - found.idle,
    }


def _batches(batches: Sequence[int], engine: Backend, runs: int, folder: Path) -> list[dict]:
    """Seconds of each batch of 64x64 tiles."""
    preset = get_preset("lpnsr-tiny")
    chain, _ = build_chain(preset, None)
    print(f"exporting batches {', '.join(map(str, batches))}", file=sys.stderr)
    bundle = pack(chain, preset, [(batch, (64, 64)) for batch in batches], folder)
    found = []
    for graph in bundle.manifest.graphs:
        values = random_input(preset, graph.batch, graph.tile, seed=0)
        session = engine.load(bundle, graph)
        taken = [seconds(partial(session.run, **values)) for _ in range(runs + 1)]
        found.append({"batch": graph.batch, "seconds": [round(each, 4) for each in taken[1:]]})
    return found


def exponent(areas: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(areas), np.log(values), 1)[0])


def exponents(kept: dict) -> dict[str, float]:
    """Fitted exponents of what `--json` keeps, where there are values to fit."""
    points = {
        "time": [(each["side"] ** 2, median(each["seconds"])) for each in kept["sizes"]],
        "memory": [(e["side"] ** 2, e["added"]) for e in kept["sizes"] if e["added"] > COUNTED],
        "batch": [(each["batch"], median(each["seconds"])) for each in kept["batches"]],
    }
    return {
        name: exponent(*zip(*found, strict=True))
        for name, found in points.items()
        if len(found) > 1
    }


def describe(kept: dict) -> str:
    """Markdown of what `--json` keeps."""
    lines = [
        [
            f"{each['side']}x{each['side']}",
            spread(each["seconds"]),
            f"{median(each['seconds']) / (16 * each['side'] ** 2 / 1e6):.2f}",
            f"{each['memory'] / 1e9:.2f} GB",
            f"{each['added'] / 1e9:.2f} GB",
        ]
        for each in kept["sizes"]
    ]
    header = ["picture", "median, spread", "s per output MP", "peak memory", "added by the picture"]
    machine = kept["machine"]
    parts = [
        f"{machine['processor']}, {machine['cores']} cores. {summary(kept)}",
        table(header, lines),
    ]
    if kept["batches"]:
        lines = [
            [str(e["batch"]), spread(e["seconds"]), f"{median(e['seconds']) / e['batch']:.3f} s"]
            for e in kept["batches"]
        ]
        parts.append(table(["batch of 64x64", "median, spread", "per tile"], lines))
    return "\n\n".join(parts)


def summary(kept: dict) -> str:
    """The fitted exponents, in words."""
    fitted = exponents(kept)
    sides = [each["side"] for each in kept["sizes"]]
    told = {
        "time": f"time grows with a picture's area, {min(sides)}x{min(sides)} to "
        f"{max(sides)}x{max(sides)}, to the power of",
        "memory": "the memory that the picture adds, to the power of",
        "batch": "time grows with the batch to the power of",
    }
    text = "; ".join(
        f"{words} {fitted[name]:.3f}" for name, words in told.items() if name in fitted
    )
    return f"Built-in model, {kept['engine']}: {text}."
