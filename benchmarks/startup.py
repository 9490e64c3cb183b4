"""From start to first picture: seconds and peak memory of one engine in a process of its own.

`python -m lpnsr.benchmarks.startup BUNDLE BACKEND PRECISION` prints them as JSON; `lpnsr-bench
stages` calls it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def measure(bundle: Path, backend: str, precision: str, cache: Path) -> dict[str, float]:
    """Run this module in a fresh process that keeps compiled graphs in `cache`.

    Returns:
        `seconds` until one tile is upscaled, imports included, and `memory`, the peak in bytes.

    Raises:
        RuntimeError: the process fails.
    """
    command = [sys.executable, "-m", "lpnsr.benchmarks.startup", bundle, backend, precision, cache]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip() or "the process was killed").splitlines()[-1])
    return json.loads(done.stdout)


def main(bundle: str, backend: str, precision: str, cache: str) -> None:
    """Upscale one tile with the smallest graph and print what it took."""
    os.environ["XDG_CACHE_HOME"] = cache
    start = time.perf_counter()

    import numpy as np

    from lpnsr.benchmarks import machine
    from lpnsr.runtime.upscaler import Upscaler

    upscaler = Upscaler.from_bundle(bundle, backend=backend, precision=precision)
    tile = min(graph.tile for graph in upscaler.bundle.manifest.graphs)
    upscaler.upscale(np.zeros((*tile, 3), np.uint8))
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "memory": machine.peak_memory()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
