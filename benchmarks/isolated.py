"""One engine in a process of its own: seconds from start to first picture, and peak memory.

`python -m lpnsr.benchmarks.isolated TASK` prints them as JSON; `measure` runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

Call = Callable[[], object]


CACHES = ("LPNSR_HOME", "TORCHINDUCTOR_CACHE_DIR")
"""Environment variables that say where engines keep what they compile."""

CORNER = 192
"""Side of what is upscaled first, in pixels: the whole of a small picture."""


@dataclass(frozen=True)
class Trial:
    """What the process does.

    Attributes:
        model: a bundle's folder, or the file of an eager chain (see `torch.save`).
        backend: of the runtime, or "torch" or "torch.compile".
        precision: of the runtime's backend.
        size: (height, width) of the picture.
        runs: times that it is upscaled, after a corner of it to warm up.
        cache: folder for what engines compile; empty at the first start.
    """

    model: str
    backend: str
    precision: str
    size: tuple[int, int]
    cache: str
    runs: int = 0


@dataclass(frozen=True)
class Measured:
    """What the process found.

    Attributes:
        first: seconds until the corner is upscaled, imports included.
        seconds: of each run after that.
        idle: most bytes that the process held until then.
        memory: most bytes that it held overall.
        device_memory: bytes of the GPU that it took; None without one.
    """

    first: float
    seconds: list[float]
    idle: int
    memory: int
    device_memory: int | None


def measure(task: Trial) -> Measured:
    """Run a task in a fresh process.

    Raises:
        RuntimeError: the process fails.
    """
    command = [sys.executable, "-m", "lpnsr.benchmarks.isolated", json.dumps(asdict(task))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "the process was killed").splitlines()[-1])
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def twice(model: Path, backend: str, precision: str, size: tuple[int, int], cache: Path) -> dict:
    """A first and a second start, which finds what the first has compiled."""
    compiled = cache / f"{model.name}-{backend}-{precision}"
    task = Trial(str(model), backend, precision, size, str(compiled))
    starts = [measure(task) for _ in range(2)]
    device = [start.device_memory for start in starts if start.device_memory is not None]
    return {
        "first": round(starts[0].first, 2),
        "second": round(starts[1].first, 2),
        "memory": max(start.memory for start in starts),
        "device_memory": max(device, default=None),
    }


def main(task: Trial) -> Measured:
    """Do the task."""
    os.environ.update(dict.fromkeys(CACHES, task.cache))
    start = time.perf_counter()
    from lpnsr.benchmarks import machine

    before = machine.device_memory()
    warm_up, upscale = _eager(task) if task.backend.startswith("torch") else _engine(task)
    warm_up()
    first, seconds = time.perf_counter() - start, []
    idle = machine.peak_memory()
    for _ in range(task.runs):
        begin = time.perf_counter()
        upscale()
        seconds.append(round(time.perf_counter() - begin, 4))
    after = machine.device_memory()
    taken = None if before is None or after is None else after - before
    return Measured(first, seconds, idle, machine.peak_memory(), taken)


def _engine(task: Trial) -> tuple[Call, Call]:
    import numpy as np

    from lpnsr.runtime.upscaler import Upscaler

    upscaler = Upscaler.from_bundle(task.model, backend=task.backend, precision=task.precision)
    picture = np.random.default_rng(0).integers(0, 256, (*task.size, 3), np.uint8)
    corner = picture[:CORNER, :CORNER]
    return lambda: upscaler.upscale(corner), lambda: upscaler.upscale(picture)


def _eager(task: Trial) -> tuple[Call, Call]:
    import torch

    from lpnsr.benchmarks.authors import random_noise
    from lpnsr.benchmarks.methods import compile_networks

    device = "cuda" if torch.cuda.is_available() else "cpu"
    chain = torch.load(task.model, weights_only=False, map_location=device)
    lr = torch.rand(1, 3, *task.size, device=device)
    noise = random_noise(chain, lr, torch.Generator().manual_seed(0))
    if task.backend == "torch.compile":
        chain = compile_networks(chain)

    @torch.no_grad()
    def upscale() -> None:
        chain(lr, noise).cpu()

    return upscale, upscale


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    given["size"] = tuple(given["size"])
    print(json.dumps(asdict(main(Trial(**given)))))
