"""Pictures per second of `lpnsr-serve` with some clients at once, against `lpnsr-run`'s.

The server is a process of its own and answers over the loopback address; `lpnsr-run`'s pipeline
goes from file to file, with its graphs loaded as the server's are. They take turns.
"""

from __future__ import annotations

import argparse
import http.client
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from lpnsr.benchmarks import small
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.timing import seconds
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.command.jobs import plan
from lpnsr.runtime.upscaler import Upscaler


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench serve`."""
    add = parser.add_argument
    add("--model", type=Path, default=BUILTIN, metavar="BUNDLE", help="default: the built-in")
    add("--count", type=int, default=48, help="generated pictures (default: %(default)s)")
    add("--clients", type=int, nargs="+", default=[1, 4, 16], help="default: 1 4 16")
    add("--runs", type=int, default=3, help="timed rounds (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    print(measure(args.model, args.count, args.clients, args.runs))
    return 0


def measure(model: Path, count: int, clients: Sequence[int], runs: int) -> str:
    """A table of throughput and latency.

    Args:
        model: the bundle.
        count: number of pictures.
        clients: how many at once, for each line.
        runs: timed rounds, after one that loads the graphs.

    Raises:
        RuntimeError: the server does not start or refuses a picture.
    """
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in"
        source.mkdir()
        small.generate(source, count)
        jobs = plan([source], Path(name) / "out")
        pictures = [job.source.read_bytes() for job in jobs.jobs]
        command: list[float] = []
        served: dict[int, list[float]] = {number: [] for number in clients}
        waits: dict[int, list[float]] = {number: [] for number in clients}
        with Upscaler.from_bundle(model) as upscaler, _server(model, max(clients)) as port:
            for turn in range(runs + 1):
                command.append(seconds(lambda: small.upscale(upscaler, jobs.jobs)))
                for number in clients:
                    start = time.perf_counter()
                    found = _send(port, pictures, number)
                    if turn:  # the first one loads the graphs
                        served[number].append(time.perf_counter() - start)
                        waits[number] += found
            choice = upscaler.choice
    alone = median(command[1:])
    lines = [["lpnsr-run", f"{count / alone:.2f}", "100%", "-", "-"]]
    for number in clients:
        took, late = median(served[number]), np.percentile(waits[number], 99)
        lines.append(
            [
                f"{number} client{'s' * (number > 1)}",
                f"{count / took:.2f}",
                f"{alone / took:.0%}",
                f"{median(waits[number]):.2f} s",
                f"{late:.2f} s",
            ]
        )
    header = ["", "pictures/s", "of lpnsr-run", "latency, median", "latency, 99 %"]
    sides = f"{small.SIDES[0]} to {small.SIDES[1]}"
    return f"{count} pictures of {sides} pixels a side; {choice}\n\n{table(header, lines)}"


@contextmanager
def _server(model: Path, clients: int) -> Iterator[int]:
    """A server of its own; gives its port."""
    command = [sys.executable, "-m", "lpnsr.runtime.serve.cli", "--model", str(model)]
    command += ["--port", "0", "--queue", str(clients), "--timeout", "3600"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        try:
            if found is None:
                raise RuntimeError(line.strip() or "the server does not start")
            yield int(found[1])
        finally:
            process.terminate()


def _send(port: int, pictures: Sequence[bytes], clients: int) -> list[float]:
    """Send all pictures, from some clients at once; returns the seconds of each."""

    def one(picture: bytes) -> float:
        start = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.request("POST", "/upscale", picture)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(body.decode())
        return time.perf_counter() - start

    with ThreadPoolExecutor(clients) as threads:
        return list(threads.map(one, pictures))
