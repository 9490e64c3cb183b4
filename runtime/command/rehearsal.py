"""What a run would do, and how long it would take, without doing it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures import images
from lpnsr.runtime.upscaler import Upscaler


def sizes(
    jobs: Sequence[Job], recipe: Recipe, tell: Callable[[str], None], warn: Callable[[str], None]
) -> tuple[int, int]:
    """Tell the sizes of all pictures and their outputs.

    Args:
        jobs: the pictures.
        recipe: what would be done to them.
        tell: called with a line for each picture.
        warn: called with a line for each that cannot be read.

    Returns:
        The inputs' pixels in all, and how many pictures cannot be read.
    """
    pixels = failed = 0
    for job in jobs:
        try:
            height, width = images.probe(job.source).size
        except images.ImageError as error:
            warn(str(error))
            failed += 1
            continue
        large = recipe.target((height, width))
        tell(f"{job.source} -> {job.target}: {width}x{height} to {large[1]}x{large[0]}")
        pixels += height * width
    return pixels, failed


def seconds_per_pixel(upscaler: Upscaler) -> float:
    """Measure how long a pixel of the input takes, on a picture of two tiles that overlap."""
    height, width = upscaler.bundle.manifest.graphs[0].tile
    upscaler.upscale(np.zeros((height, width, 3), np.uint8))  # the first run is slower
    start = time.perf_counter()
    upscaler.upscale(np.zeros((height, 3 * width // 2, 3), np.uint8))
    return (time.perf_counter() - start) / (height * 3 * width // 2)


def duration(seconds: float) -> str:
    """A time in words, roughly: "40 s", "3 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
