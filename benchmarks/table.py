"""A workload in every way that this machine has, beside the figures that others have published.

The workloads are named after the tables they reproduce; `--batch` and `--size` change them for
smaller machines, and the output says so. Every method gets the same input, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lpnsr.benchmarks import machine, pages
from lpnsr.benchmarks.measure import MeasureOptions, measure
from lpnsr.benchmarks.workloads import WORKLOADS, Workload
from lpnsr.runtime.tiles.sizes import parse_tile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench table`."""
    parser.add_argument("name", choices=[name for name in WORKLOADS if name != "quick"])
    add = parser.add_argument
    add("--batch", type=int, metavar="N", help="pictures at once (default: as published)")
    add("--size", type=parse_tile, help="of a picture, 64 or 128x64 (default: as published)")
    add("--weights", type=Path, help="folder with checkpoints (default: deterministic weights)")
    add("--bundles", type=Path, metavar="DIR", help="keep exported bundles there, and use them")
    add("--no-starts", dest="starts", action="store_false", help="leave out starts and memory")
    add_output_arguments(parser, runs=5)


def add_output_arguments(parser: argparse.ArgumentParser, runs: int) -> None:
    """Arguments that `quick` has too."""
    add = parser.add_argument
    add("--runs", type=int, default=runs, help="timed rounds at least (default: %(default)s)")
    add(
        "--spread",
        type=float,
        default=3.0,
        metavar="PERCENT",
        help="go on, up to four times as many rounds, until no method's spread is larger "
        "(default: %(default)g)",
    )
    add("--compile", action="store_true", help="also torch.compile, which compiles for minutes")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--markdown", type=Path, metavar="FILE", help="write the tables, which are printed, there")
    add("--plot", type=Path, metavar="FILE", help="draw speed against PSNR there, a .png")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    workload = WORKLOADS[args.name].resized(args.batch, args.size)
    options = MeasureOptions(
        args.runs,
        args.spread / 100,
        args.weights,
        args.bundles,
        starts=args.starts,
        compiles=args.compile,
    )
    return measure_all(workload, options, args)


def measure_all(workload: Workload, options: MeasureOptions, args: argparse.Namespace) -> int:
    """Measure the models of a workload one after the other; print and write."""
    about = machine.environment() | {machine.RATES: machine.rates()}
    print(json.dumps(about), file=sys.stderr)
    kept: dict[str, Any] = {"workload": asdict(workload), "machine": about, "results": []}
    for model in workload.models:
        kept["results"].append(asdict(measure(model, workload, options)))
        about[machine.RATES] = machine.rates(about[machine.RATES])
        if args.json:  # what there is stays, also if the rest is interrupted
            args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    text = pages.whole(kept)
    print(text)
    if args.markdown:
        args.markdown.write_text(text + "\n", encoding="utf-8")
    if args.plot:
        from lpnsr.benchmarks import plots

        plots.speed_against_psnr(kept, args.plot)
    return 0
