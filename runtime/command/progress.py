"""Progress bars: one over all pictures, by their pixels, and one over the tiles of one picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

from tqdm import tqdm

from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.pictures import images

_WHOLE = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class Progress:
    """What is done of a run; the time left is that of the pixels left.

    Args:
        pictures: the bar over all pictures, whose unit is a pixel.
        tiles: the bar over the picture in progress.
        pixels: of each picture.
    """

    def __init__(self, pictures: tqdm, tiles: tqdm, pixels: dict[Job, int]) -> None:
        self._pictures, self._tiles, self._pixels = pictures, tiles, pixels
        self._lock = Lock()
        self._job: Job | None = None
        self._shown = dict.fromkeys(pixels, 0)
        self._ended = 0

    def show(self, job: Job, done: int, total: int) -> None:
        """Show that `done` of a picture's `total` tiles are done."""
        with self._lock:
            if self._job != job:
                self._job = job
                self._tiles.set_description(job.source.name, refresh=False)
                self._tiles.reset(total)
            self._tiles.update(done - self._tiles.n)
            self._reach(job, self._pixels[job] * done // total)

    def end(self, job: Job) -> None:
        """Show that nothing is left to do for a picture."""
        with self._lock:
            self._ended += 1
            self._pictures.set_description_str(
                _count(self._ended, len(self._pixels)), refresh=False
            )
            self._reach(job, self._pixels[job])

    def _reach(self, job: Job, pixels: int) -> None:
        before, self._shown[job] = self._shown[job], pixels
        self._pictures.update(pixels - before)


@contextmanager
def bars(jobs: Sequence[Job], quiet: bool = False) -> Iterator[Progress]:
    """Bars for a run, on a terminal only.

    Args:
        jobs: the pictures.
        quiet: show none.
    """
    tqdm.monitor_interval = 0  # no thread that looks after bars
    look: dict[str, Any] = {"miniters": 0, "disable": True if quiet else None}
    with (
        tqdm(desc=_count(0, len(jobs)), bar_format=_WHOLE, **look) as pictures,
        tqdm(desc="tiles", unit="tile", leave=False, **look) as tiles,
    ):
        pixels = dict.fromkeys(jobs, 0)
        if not pictures.disable:  # else nobody asks
            pixels = {job: _pixels(job) for job in jobs}
            pictures.total = max(1, sum(pixels.values()))
        yield Progress(pictures, tiles, pixels)


def _count(done: int, jobs: int) -> str:
    return f"{done}/{jobs} pictures"


def _pixels(job: Job) -> int:
    try:
        height, width = images.probe(job.source).size
    except images.ImageError:
        return 0  # the run will report it
    return height * width
