"""What shards and Ray cost: pictures per second of `lpnsr-bulk` on this machine, and `lpnsr-run`'s.

Both go from file to file on the same cores and load the engine before the clock starts; how long
that takes with Ray is given, too. They take turns. With --plan, a plan of simulated paths is
made and its status shown.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from threading import Event

import numpy as np
import ray

from lpnsr.benchmarks import machine, paths, small
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.timing import seconds
from lpnsr.runtime.bulk import cluster, planning
from lpnsr.runtime.bulk.plan import Plan, RunOptions, fingerprint, portable
from lpnsr.runtime.bulk.storage import Folder
from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.command.arguments import installed
from lpnsr.runtime.command.jobs import Job, plan
from lpnsr.runtime.upscaler import Upscaler


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench bulk`."""
    add = parser.add_argument
    add("--model", type=Path, default=BUILTIN, metavar="BUNDLE", help="default: the built-in")
    add("--count", type=int, default=200, help="generated pictures (default: %(default)s)")
    add("--workers", type=int, nargs="+", default=[1, 2], help="that share the cores: 1 2")
    add("--runs", type=int, default=3, help="timed rounds (default: %(default)s)")
    add("--plan", action="store_true", help="plan simulated paths instead")
    add("--paths", type=int, default=10_000_000, help="with --plan (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    if args.plan:
        print(f"{paths.measure(args.paths)}, {machine.peak_memory() / 1e9:.2f} GB at the peak")
    else:
        print(measure(args.model, args.count, args.workers, args.runs))
    return 0


def measure(model: Path, count: int, workers: Sequence[int], runs: int) -> str:
    """A table of throughput.

    Args:
        model: the bundle.
        count: number of pictures.
        workers: how many share the cores, for each line.
        runs: timed rounds.

    Raises:
        JobError: there are fewer cores than workers.
        RuntimeError: a picture cannot be upscaled.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    alone: list[float] = []
    begun: dict[int, list[float]] = {number: [] for number in workers}
    took: dict[int, list[float]] = {number: [] for number in workers}
    with tempfile.TemporaryDirectory() as name, cluster.connected(cluster.LOCAL):
        source = Path(name) / "in"
        source.mkdir()
        small.generate(source, count)
        jobs = plan([source], Path(name) / "out").jobs
        for turn in range(runs):
            alone.append(_single(model, jobs, cores or 1))
            for number in workers:
                folder = Path(name) / f"{turn}-{number}"
                start, work = _bulk(model, source, folder, number, (cores or 1) // number)
                begun[number].append(start)
                took[number].append(work)
    lines = [["lpnsr-run", f"{count / median(alone):.2f}", "-", "-"]]
    for number in workers:
        work = median(took[number])
        lines.append(
            [
                f"{number} worker{'s' * (number > 1)}",
                f"{count / work:.2f}",
                f"{work / median(alone) - 1:+.1%}",
                f"{median(begun[number]):.1f} s",
            ]
        )
    sides = f"{small.SIDES[0]} to {small.SIDES[1]}"
    header = ["", "pictures/s", "time over lpnsr-run's", "plan, workers and engines"]
    title = f"{count} pictures of {sides} pixels a side on {cores} cores"
    return f"{title}\n\n{table(header, lines)}"


def _single(model: Path, jobs: Sequence[Job], threads: int) -> float:
    """Seconds of `lpnsr-run`'s pipeline."""
    with Upscaler.from_bundle(model, threads=threads) as upscaler:
        upscaler.upscale(np.zeros((*upscaler.layout((1, 1)).graph.tile, 3), np.uint8))
        return seconds(lambda: small.upscale(upscaler, jobs))


def _bulk(
    model: Path, source: Path, folder: Path, workers: int, threads: int
) -> tuple[float, float]:
    """Seconds until some workers are ready, and those of their work."""
    start, bundle, run = time.perf_counter(), Bundle.open(model), Folder(str(folder / "run"))
    output, options = str(folder / "out"), RunOptions()
    empty = Plan(str(source), output, portable(bundle), fingerprint(bundle), installed(), options)
    shards = len(planning.make(empty, run, 1000.0, print).shards)
    running = cluster.Cluster(run.url, options.backend, None, threads, workers, print)
    ray.get([actor.start.remote() for actor in running.actors])
    ready = time.perf_counter()
    failed = sum(failed for _, (_, failed) in running.work(range(shards), Event()))
    if failed:
        raise RuntimeError(f"pictures that failed: {failed}; see lpnsr-run {source}")
    return ready - start, time.perf_counter() - ready
