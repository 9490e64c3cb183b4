"""A workload in every way that this machine has, beside the figures that others have published.

The workloads are named after the tables they reproduce; `--batch` and `--size` change them for
smaller machines, and the output says so. Every method gets the same input, and they take turns.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection, Mapping
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
    add(
        "--models",
        nargs="+",
        default=(),
        metavar="MODEL",
        help="only these, as the table calls them; what FILE of --json has of the others stays",
    )
    add(
        "--one-by-one",
        action="store_true",
        help="let methods run one after the other, not in turns: for models of which memory holds "
        "only one",
    )
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
        alone=args.one_by_one,
    )
    return measure_all(workload, options, args, args.models)


def measure_all(
    workload: Workload,
    options: MeasureOptions,
    args: argparse.Namespace,
    only: Collection[str] = (),
) -> int:
    """Measure the models of a workload one after the other; print and write.

    Args:
        workload: what to measure.
        options: how.
        args: those of `add_output_arguments`.
        only: labels of models; figures of the others are taken from `args.json`, where they are.

    Raises:
        ValueError: there is no such model, or the file has figures of another workload or machine.
    """
    labels = [model.label for model in workload.models]
    if unknown := [label for label in only if label not in labels]:
        raise ValueError(f"{workload.name} has no {unknown[0]}; it has {', '.join(labels)}")
    about = machine.environment()
    before = _measured_before(workload, about, args.json) if only else {}
    about[machine.RATES] = machine.rates(before.get("machine", {}).get(machine.RATES))
    print(json.dumps(about), file=sys.stderr)
    results = {result["label"]: result for result in before.get("results", ())}
    kept: dict[str, Any] = {"workload": asdict(workload), "machine": about}
    for model in workload.models:
        if only and model.label not in only:
            continue
        results[model.label] = asdict(measure(model, workload, options))
        kept["results"] = [results[label] for label in labels if label in results]
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


def _measured_before(
    workload: Workload, about: Mapping[str, Any], file: Path | None
) -> dict[str, Any]:
    """What a file of figures holds, if it is there."""
    if file is None or not file.is_file():
        return {}
    kept = json.loads(file.read_text(encoding="utf-8"))
    same = all(kept["machine"][name] == about[name] for name in ("processor", "cores", "GPU"))
    known = kept["workload"]
    if not same or (known["name"], known["batch"], (*known["size"],)) != (
        workload.name,
        workload.batch,
        workload.size,
    ):
        raise ValueError(f"{file} has figures of another workload or machine; name another file")
    return kept
