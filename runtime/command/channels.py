"""How the threads of a run pass on pictures, band by band, and share memory for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from queue import Queue
from threading import Condition, Event

import numpy as np

from lpnsr.runtime.command.jobs import Job

_END, _DROP = object(), object()


class Dropped(Exception):
    """The rest of a picture will not arrive."""


class Channel:
    """Carries the bands of one picture from the computing to the writing thread."""

    def __init__(self) -> None:
        self._queue: Queue = Queue(maxsize=8)
        self._unwanted = Event()
        self._ended = False

    def send(self, bands: Iterable[np.ndarray]) -> None:
        """Send a whole picture or, on an error, tell the receiver to drop it."""
        last = _DROP
        try:
            for band in bands:
                if self._unwanted.is_set():
                    return
                self._queue.put(band)
            last = _END
        finally:
            self._queue.put(last)

    def __iter__(self) -> Iterator[np.ndarray]:
        while (band := self._queue.get()) is not _END:
            if band is _DROP:
                self._ended = True
                raise Dropped
            yield band
        self._ended = True

    def drain(self) -> None:
        """Discard whatever the sender still has to send, so that it does not block."""
        self._unwanted.set()
        while not self._ended:
            band = self._queue.get()
            self._ended = band is _END or band is _DROP


class Timed:
    """Iterates over something and measures the time that this takes."""

    def __init__(self, inner: Iterable[np.ndarray]) -> None:
        self._inner = iter(inner)
        self.seconds = 0.0

    def __iter__(self) -> Timed:
        return self

    def __next__(self) -> np.ndarray:
        start = time.perf_counter()
        try:
            return next(self._inner)
        finally:
            self.seconds += time.perf_counter() - start


class Room:
    """Limits the memory of pictures that are decoded but not yet upscaled."""

    def __init__(self, pixels: int) -> None:
        self._limit = pixels
        self._inside: dict[Job, int] = {}
        self._changed = Condition()
        self._closed = False

    def enter(self, job: Job, pixels: int) -> None:
        """Wait until there is room for this many pixels, or until all other pictures have left."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or not self._inside
                    or sum(self._inside.values()) + pixels <= self._limit
                )
            )
            self._inside[job] = pixels

    def leave(self, job: Job) -> None:
        """Make room."""
        with self._changed:
            self._inside.pop(job, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Let everyone in."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
