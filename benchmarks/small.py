"""A folder of small pictures of mixed sizes, against the time that its tiles alone take."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from threading import Event

import numpy as np
from PIL import Image

from lpnsr.benchmarks.timing import seconds
from lpnsr.runtime.backends.session import Session
from lpnsr.runtime.bundle import shapes
from lpnsr.runtime.command.jobs import Job, plan
from lpnsr.runtime.command.pipeline import Pipeline
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.upscaler import Upscaler

COUNT, SIDES = 100, (48, 200)
"""Number of pictures, and the least and the largest of their sides in pixels."""


def generate(folder: Path, count: int = COUNT) -> list[tuple[int, int]]:
    """Write pictures of random sizes, clouds of colour with some grain, as PNG.

    Returns:
        their sizes (height, width).
    """
    rng = np.random.default_rng(0)
    sizes = rng.integers(SIDES[0], SIDES[1], (count, 2), endpoint=True).tolist()
    for number, (height, width) in enumerate(sizes):
        clouds = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        pixels = np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        pixels = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:03}.png")
    return [(height, width) for height, width in sizes]


def measure(upscaler: Upscaler, runs: int, count: int = COUNT) -> str:
    """Upscale such a folder and its tiles alone, in turns; says what both took.

    Args:
        upscaler: the model.
        runs: timed rounds, after one that loads the graphs.
        count: number of pictures.

    Raises:
        RuntimeError: a picture cannot be upscaled.
    """
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in"
        source.mkdir()
        layouts = [upscaler.layout(size) for size in generate(source, count)]
        jobs = plan([source], Path(name) / "out").jobs
        graphs = {layout.graph.files: layout.graph for layout in layouts}
        loaded = {k: upscaler.backend.load(upscaler.bundle, g) for k, g in graphs.items()}
        # Every batch of the folder, picture by picture.
        batches = [
            loaded[layout.graph.files]
            for layout in layouts
            for _ in range(layout.pixels // layout.graph.pixels)
        ]
        first = seconds(lambda: upscale(upscaler, jobs))
        run_all(list(loaded.values()))
        whole, alone = [], []
        for _ in range(runs):
            whole.append(seconds(lambda: upscale(upscaler, jobs)))
            alone.append(seconds(lambda: run_all(batches)))
    ratio = median(whole) / median(alone)
    return (
        f"{count} pictures of {SIDES[0]} to {SIDES[1]} pixels a side, {len(batches)} batches of "
        f"{len(graphs)} graphs; {upscaler.choice}: {median(whole):.2f} s from file to file "
        f"({first:.2f} s the first time), {median(alone):.2f} s for the tiles alone, one "
        f"after the other, ratio {ratio:.3f}"
    )


def upscale(upscaler: Upscaler, jobs: Sequence[Job]) -> None:
    """From file to file, as `lpnsr-run` does.

    Raises:
        RuntimeError: a picture cannot be upscaled.
    """
    pipeline = Pipeline(
        upscaler, Recipe(), FORMATS["png"], 95, print, lambda job, done, total: None, Event()
    )
    for outcome in pipeline.run(jobs):
        if outcome.error:
            raise RuntimeError(f"{outcome.job.source}: {outcome.error}")


def run_all(batches: Sequence[Session]) -> None:
    """Let each session upscale a batch, as often as it occurs."""
    rng = np.random.default_rng(0)
    values = {}
    for session in batches:
        lr, noise, _ = shapes(session.manifest, replace(session.graph, stages=())).values()
        if session not in values:
            values[session] = (
                rng.uniform(-1, 1, lr).astype(np.float32),
                rng.standard_normal(noise).astype(np.float32),
            )
        session.run(*values[session])
