"""Reads, upscales and writes pictures at the same time, each in a thread of its own."""

from __future__ import annotations

import errno
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import Queue
from threading import Condition, Event

import cv2
import numpy as np

from lpnsr.runtime.command import memory
from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures import formats, images
from lpnsr.runtime.pictures.formats import Format, OutputSpec
from lpnsr.runtime.pictures.images import Header, ImageError, Picture
from lpnsr.runtime.pictures.metadata import DAMAGE
from lpnsr.runtime.upscaler import UpscaleError, Upscaler

_WRITERS = 2
"""Pictures that are encoded at once."""

_UNWRITTEN = 2 * _WRITERS
"""Pictures that may wait for being encoded."""

_AHEAD = 8
"""Pictures that may be decoded before their turn."""

_PIXELS = 2**25
"""Pixels that the decoded pictures may have together; a larger picture is alone."""

_BULKY = 2**29
"""Bytes that an encoder may hold while the next picture is upscaled."""

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Failures to write that the next picture would meet too."""

_END, _DROP = object(), object()


@dataclass
class Outcome:
    """What became of one picture.

    Attributes:
        job: the picture.
        error: why it failed, one line; None if its output is written.
        cause: the exception behind `error`.
        lost: what the output lacks, such as "16-bit depth".
        input_size: (height, width) of the input.
        output_size: (height, width) of the output.
        seconds: stage name -> time that it worked on this picture.
        sha256: of the output file.
    """

    job: Job
    error: str | None = None
    cause: Exception | None = None
    lost: list[str] = field(default_factory=list)
    input_size: tuple[int, int] | None = None
    output_size: tuple[int, int] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    sha256: str | None = None


@dataclass(frozen=True)
class Pipeline:
    """Upscales many pictures without letting the model wait for decoding or encoding.

    Attributes:
        upscaler: the model.
        recipe: what is done to each picture.
        kind: the format of the output files.
        quality: of lossy formats, 1 to 100.
        say: called with what the user should know.
        progress: called with the job and the numbers of its tiles done and of tiles in all.
        stop: once set, the picture in work is dropped and no other is begun.
        salvage: take of damaged JPEGs what can be decoded.
    """

    upscaler: Upscaler
    recipe: Recipe
    kind: Format
    quality: int
    say: Callable[[str], None]
    progress: Callable[[Job, int, int], None]
    stop: Event
    salvage: bool = False

    def run(self, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Upscale pictures; yields what became of each, in order.

        It ends early if `stop` is set or the disk is full; the pictures left out then are not
        yielded, and nothing of them remains.

        Raises:
            BackendError: the engine fails, whatever the picture.
            BundleError: the graph is not what the bundle's manifest says.
        """
        room = _Room(_PIXELS)
        unwritten: deque[Future[Outcome]] = deque()
        with (
            ThreadPoolExecutor(1, "read") as readers,
            ThreadPoolExecutor(_WRITERS, "write") as writers,
        ):
            try:
                for outcome, reading in _ahead(jobs, lambda job: self._submit(readers, job, room)):
                    unwritten.append(self._compute(outcome, reading, writers))
                    if self._is_bulky(outcome):
                        wait(unwritten)
                    room.leave(outcome.job)
                    while unwritten and (len(unwritten) > _UNWRITTEN or unwritten[0].done()):
                        done = unwritten.popleft().result()
                        yield done
                        if _is_fatal(done):
                            return
            except _Stopped:
                pass  # what is computed is still written
            finally:
                room.close()
                readers.shutdown(cancel_futures=True)
            for writing in unwritten:
                yield writing.result()

    def _submit(
        self, readers: ThreadPoolExecutor, job: Job, room: _Room
    ) -> tuple[Outcome, Future[Picture]]:
        outcome = Outcome(job)
        return outcome, readers.submit(self._read, outcome, room)

    def _read(self, outcome: Outcome, room: _Room) -> Picture:
        header = images.probe(outcome.job.source)
        room.enter(outcome.job, header.size[0] * header.size[1])
        self._refuse_too_large(header)  # now that a large one before it has left its memory
        start = time.perf_counter()
        picture = images.read(outcome.job.source, self.salvage)
        outcome.seconds["decode"] = time.perf_counter() - start
        return picture

    def _refuse_too_large(self, header: Header) -> None:
        target = self.recipe.target(header.size)
        self.kind.check(target)
        passes = 2 if self.recipe.alpha == "model" and header.channels in (2, 4) else 1
        computing = passes * self.upscaler.memory(header.size)
        memory.check(memory.needed(header, target, self.kind, computing))

    def _is_bulky(self, outcome: Outcome) -> bool:
        """Whether the encoder holds so much that the next picture should wait for it."""
        height, width = outcome.output_size or (0, 0)
        return self.kind.held * height * width > _BULKY

    def _compute(
        self, outcome: Outcome, reading: Future[Picture], writers: ThreadPoolExecutor
    ) -> Future[Outcome]:
        """Upscale one picture; the future gives its outcome."""
        if self.stop.is_set():
            raise _Stopped
        try:
            picture = reading.result()
            while True:
                try:
                    return self._attempt(outcome, picture, writers)
                except MemoryError:
                    self.say(self.upscaler.shrink())
        except (ImageError, UpscaleError, MemoryError, cv2.error) as error:
            return _failed(outcome, error)

    def _attempt(
        self, outcome: Outcome, picture: Picture, writers: ThreadPoolExecutor
    ) -> Future[Outcome]:
        pixels = picture.pixels
        outcome.input_size = pixels.shape[:2]
        outcome.output_size = self.recipe.target(outcome.input_size)
        layout, lost = self.kind.adapt(
            OutputSpec(
                outcome.output_size,
                pixels.shape[2],
                pixels.dtype,
                picture.metadata,
                self.quality,
                opaque=bool((pixels[..., -1] == np.iinfo(pixels.dtype).max).all()),
            )
        )
        outcome.lost = [*picture.lost, *lost]
        bands = _Timed(
            self.recipe.bands(
                self.upscaler,
                picture,
                layout.channels,
                layout.dtype,
                lambda done, total: self._progress(outcome.job, done, total),
            )
        )
        channel = _Channel()
        writing = writers.submit(self._write, outcome, channel, layout)
        channel.send(bands)
        outcome.seconds["compute"] = bands.seconds
        return writing

    def _progress(self, job: Job, done: int, total: int) -> None:
        if self.stop.is_set():
            raise _Stopped
        self.progress(job, done, total)

    def _write(self, outcome: Outcome, channel: _Channel, layout: OutputSpec) -> Outcome:
        bands, start = _Timed(channel), time.perf_counter()
        try:
            outcome.sha256 = formats.write(outcome.job.target, self.kind, bands, layout)
        except _Dropped:
            return outcome
        except (*DAMAGE, MemoryError, zlib.error) as error:
            reason = str(error) or "not enough memory"
            outcome.error, outcome.cause = f"cannot write {outcome.job.target}: {reason}", error
        finally:
            channel.drain()
        outcome.seconds["encode"] = time.perf_counter() - start - bands.seconds
        return outcome


def _ahead(
    jobs: Iterable[Job], submit: Callable[[Job], tuple[Outcome, Future[Picture]]]
) -> Iterator[tuple[Outcome, Future[Picture]]]:
    """Submit all jobs, some before their turn comes."""
    waiting: deque[tuple[Outcome, Future[Picture]]] = deque()
    for job in jobs:
        waiting.append(submit(job))
        if len(waiting) > _AHEAD:
            yield waiting.popleft()
    yield from waiting


def _failed(outcome: Outcome, error: Exception) -> Future[Outcome]:
    outcome.error, outcome.cause = str(error) or "not enough memory; crop or split it", error
    future: Future[Outcome] = Future()
    future.set_result(outcome)
    return future


def _is_fatal(outcome: Outcome) -> bool:
    return isinstance(outcome.cause, OSError) and outcome.cause.errno in _DISK


class _Stopped(Exception):
    """The run is to end."""


class _Dropped(Exception):
    """The rest of a picture will not come."""


class _Channel:
    """Carries the bands of one picture from the computing to the writing thread."""

    def __init__(self) -> None:
        self._queue: Queue = Queue(maxsize=8)
        self._unwanted = Event()
        self._ended = False

    def send(self, bands: Iterable[np.ndarray]) -> None:
        """Send a whole picture, or, on an error, tell the other side to drop it."""
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
                raise _Dropped
            yield band
        self._ended = True

    def drain(self) -> None:
        """Let the sender go on, whatever it still has to send."""
        self._unwanted.set()
        while not self._ended:
            self._ended = self._queue.get() in (_END, _DROP)


class _Timed:
    """Iterates over something and measures how long that takes."""

    def __init__(self, inner: Iterable[np.ndarray]) -> None:
        self._inner = iter(inner)
        self.seconds = 0.0

    def __iter__(self) -> _Timed:
        return self

    def __next__(self) -> np.ndarray:
        start = time.perf_counter()
        try:
            return next(self._inner)
        finally:
            self.seconds += time.perf_counter() - start


class _Room:
    """Bounds the memory of the pictures that are decoded and not yet upscaled."""

    def __init__(self, pixels: int) -> None:
        self._limit = pixels
        self._inside: dict[Job, int] = {}
        self._changed = Condition()
        self._closed = False

    def enter(self, job: Job, pixels: int) -> None:
        """Wait until there is room for this many pixels, or nobody else inside."""
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
