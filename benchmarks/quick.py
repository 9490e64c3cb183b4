"""How fast this machine is with the built-in model, which comes with the package."""

from __future__ import annotations

import argparse

from lpnsr.benchmarks import table
from lpnsr.benchmarks.measure import MeasureOptions
from lpnsr.benchmarks.workloads import WORKLOADS
from lpnsr.runtime.bundle import BUILTIN


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench quick`."""
    table.add_output_arguments(parser, runs=9)


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    settled = args.spread / 100
    options = MeasureOptions(args.runs, settled, bundle=BUILTIN, compiles=args.compile)
    return table.measure_all(WORKLOADS["quick"], options, args)
