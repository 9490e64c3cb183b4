"""Reads, upscales and writes pictures at the same time, in threads of their own."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Event, Lock, Thread

import cv2

from lpnsr.runtime.command.channels import Channel, Dropped, Room, Timed
from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures import formats, images
from lpnsr.runtime.pictures.formats import Format, OutputSpec
from lpnsr.runtime.pictures.images import ImageError, Picture
from lpnsr.runtime.pictures.metadata import DAMAGE
from lpnsr.runtime.tiles.layout import TileLayout
from lpnsr.runtime.upscaler import UpscaleError, Upscaler

_WRITERS = 2
"""Pictures that are encoded at the same time, at least, and that may wait for it."""

_PATIENCE = 0.1
"""Seconds between checks for whether to stop."""

_ALONE = 8
"""Batches of a picture beyond which it matters little that the last one is not full."""

_AHEAD = 8
"""Pictures that may be decoded ahead of time."""

_PIXELS = 2**25
"""Most pixels of all decoded pictures together; a larger picture must be the only one."""

_BULKY = 2**29
"""Bytes that an encoder may hold while the next picture is upscaled."""

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Write errors that the next picture would meet, too."""


@dataclass
class Outcome:
    """The outcome of one picture.

    Attributes:
        job: the picture.
        error: why it failed, one line; None if its output is written.
        cause: the exception behind `error`.
        lost: what the output could not keep, such as "16-bit depth".
        input_size: (height, width) of the input.
        output_size: (height, width) of the output.
        seconds: stage name -> time that it spent on this picture.
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


class PipelineError(RuntimeError):
    """The run cannot start."""


@dataclass(frozen=True)
class Pipeline:
    """Upscales many pictures without keeping the model waiting for decoding or encoding.

    Attributes:
        upscaler: the model.
        recipe: what is done to each picture.
        kind: the format of the output files.
        quality: of lossy formats, 1 to 100.
        say: called with messages for the user, each of them once.
        progress: called with the job, its number of finished tiles and its number of tiles. Like
            `say`, it is called from a thread of the pipeline.
        stop: once set, the picture in progress is dropped and no other is started.
        salvage: decode what is left of damaged JPEGs.
    """

    upscaler: Upscaler
    recipe: Recipe
    kind: Format
    quality: int
    say: Callable[[str], None]
    progress: Callable[[Job, int, int], None]
    stop: Event
    salvage: bool = False

    def run(self, jobs: Iterable[Job]) -> Generator[Outcome, None, None]:
        """Upscale pictures and yield the outcome of each as soon as it is known.

        Jobs may arrive one by one, for example from a queue: pictures are upscaled while others are
        still to come. The run ends early if `stop` is set or the disk is full. Pictures that are
        skipped then are not yielded and leave no files behind.

        Raises:
            PipelineError: the system refuses to start threads.
            BackendError: the engine fails, whatever the picture.
            BundleError: the graph is not what the bundle's manifest says.
        """
        line = _Line(self, jobs)
        try:
            line.start()
            for outcome in line.outcomes():
                yield outcome
                if is_fatal(outcome):
                    line.stop()
        finally:
            line.end()


class _Line:
    """The threads of one run: one or more upscale, others read and write.

    Pictures move from queue to queue; None marks the end of each queue.
    """

    def __init__(self, pipeline: Pipeline, jobs: Iterable[Job]) -> None:
        self._pipeline, self._jobs = pipeline, jobs
        self._room = Room(_PIXELS)
        self._read: Queue[tuple[Outcome, Picture | Exception] | None] = Queue(_AHEAD)
        self._computing = pipeline.upscaler.parallel
        writers = max(_WRITERS, self._computing)
        self._unwritten: Queue[tuple[Outcome, Channel, OutputSpec, Timed] | None] = Queue(writers)
        self._done: Queue[Outcome | BaseException | None] = Queue()
        self._stopped = Event()
        self._said: set[str] = set()
        self._lock, self._large = Lock(), Lock()
        self._reader = Thread(target=self._read_all, name="read", daemon=True)
        self._computers = [
            Thread(target=self._compute_all, name="compute", daemon=True)
            for _ in range(self._computing)
        ]
        self._writers = [
            Thread(target=self._write_all, name="write", daemon=True) for _ in range(writers)
        ]

    def start(self) -> None:
        """Start all threads.

        Raises:
            PipelineError: the system refuses.
        """
        try:
            for thread in (*self._writers, *self._computers, self._reader):
                thread.start()
        except RuntimeError as error:
            for _ in self._writers:
                self._unwritten.put(None)
            raise PipelineError(
                f"the system refuses to start threads ({error}); close other programs or raise the "
                "limits of processes and address space (ulimit -u, -v)"
            ) from error

    def outcomes(self) -> Iterator[Outcome]:
        """Yield the outcome of each picture as it becomes known.

        Raises:
            BaseException: the error that ended the run.
        """
        writing, failure = len(self._writers), None
        while writing:
            try:
                # Not without end: a signal that comes just before it sleeps would not wake it.
                found = self._done.get(timeout=_PATIENCE)
            except Empty:
                continue
            if found is None:
                writing -= 1
            elif isinstance(found, Outcome):
                yield found
            else:
                failure = failure or found
        if failure:
            raise failure

    def stop(self) -> None:
        """Start no other picture and drop the one being upscaled."""
        self._stopped.set()
        self._room.close()

    def end(self) -> None:
        """Stop, and wait until nothing is being upscaled or written any more."""
        self.stop()
        # Do not wait for the reader: it may be waiting for a job that never arrives.
        for thread in (*self._computers, *self._writers):
            if thread.ident is not None:
                thread.join()

    def _is_stopped(self) -> bool:
        return self._stopped.is_set() or self._pipeline.stop.is_set()

    def _read_all(self) -> None:
        try:
            for job in self._jobs:
                outcome = Outcome(job)
                found: Picture | Exception
                try:
                    found = self._decoded(outcome)
                except Exception as error:
                    found = error
                if not self._put((outcome, found)):
                    return
        except BaseException as error:  # of the jobs
            self._done.put(error)
        self._put(None)

    def _put(self, item: tuple[Outcome, Picture | Exception] | None) -> bool:
        """Pass on what was read; False if the run is stopping."""
        while not self._is_stopped():
            with suppress(Full):
                self._read.put(item, timeout=_PATIENCE)
                return True
        return False

    def _decoded(self, outcome: Outcome) -> Picture:
        header = images.probe(outcome.job.source)
        self._room.enter(outcome.job, header.size[0] * header.size[1])
        pipeline = self._pipeline
        # Now that a large one before it has freed its memory.
        pipeline.recipe.check(pipeline.upscaler, header, pipeline.kind)
        start = time.perf_counter()
        picture = images.read(outcome.job.source, pipeline.salvage)
        outcome.seconds["decode"] = time.perf_counter() - start
        return picture

    def _compute_all(self) -> None:
        try:
            while (item := self._next()) is not None:
                outcome, picture = item
                with self._turn(picture):
                    self._compute(outcome, picture)
                    if self._is_bulky(outcome):
                        self._unwritten.join()
                self._room.leave(outcome.job)
        except _Stopped:
            pass  # pictures that are computed are still written
        except BaseException as error:
            self._done.put(error)
            self.stop()
        finally:
            with self._lock:
                self._computing -= 1
                is_last = not self._computing
            if is_last:
                self.stop()
                for _ in self._writers:
                    self._unwritten.put(None)

    def _next(self) -> tuple[Outcome, Picture | Exception] | None:
        """The next picture that was read; None after the last one."""
        while not self._is_stopped():
            with suppress(Empty):
                item = self._read.get(timeout=_PATIENCE)
                if item is None:
                    self._read.put(None)  # for the other threads
                return item
        raise _Stopped

    def _turn(self, picture: Picture | Exception) -> AbstractContextManager:
        """Lets one picture at a time in that hardly gains by company, to keep memory small."""
        if isinstance(picture, Exception):
            return nullcontext()
        layout = self._pipeline.upscaler.layout(picture.pixels.shape[:2])
        return self._large if layout.tiles > _ALONE * layout.graph.batch else nullcontext()

    def _is_bulky(self, outcome: Outcome) -> bool:
        """Whether the encoder holds so much memory that the next picture should wait for it."""
        height, width = outcome.output_size or (0, 0)
        return self._pipeline.kind.held * height * width > _BULKY

    def _compute(self, outcome: Outcome, picture: Picture | Exception) -> None:
        """Upscale one picture and pass it to a writer, or report why that failed."""
        try:
            if isinstance(picture, Exception):
                raise picture
            upscaler, size = self._pipeline.upscaler, picture.pixels.shape[:2]
            layout = upscaler.layout(size)
            while True:
                try:
                    return self._attempt(outcome, picture, layout)
                except MemoryError:
                    before, layout = layout, upscaler.lighter(size, layout)
                    self._say(f"memory has run out with {before}; going on with {layout}")
        except (ImageError, UpscaleError, MemoryError, cv2.error) as error:
            outcome.error = str(error) or "not enough memory; crop or split it"
            outcome.cause = error
            self._done.put(outcome)

    def _say(self, text: str) -> None:
        with self._lock:
            if text not in self._said:
                self._said.add(text)
                self._pipeline.say(text)

    def _attempt(self, outcome: Outcome, picture: Picture, layout: TileLayout) -> None:
        pipeline, recipe = self._pipeline, self._pipeline.recipe
        spec, outcome.lost = recipe.output(picture, pipeline.kind, pipeline.quality)
        outcome.input_size, outcome.output_size = picture.pixels.shape[:2], spec.size

        def progress(done: int, total: int) -> None:
            if self._is_stopped():
                raise _Stopped
            pipeline.progress(outcome.job, done, total)

        bands = Timed(
            recipe.bands(pipeline.upscaler, picture, spec.channels, spec.dtype, progress, layout)
        )
        channel = Channel()
        self._unwritten.put((outcome, channel, spec, bands))
        channel.send(bands)

    def _write_all(self) -> None:
        while (item := self._unwritten.get()) is not None:
            try:
                if outcome := self._write(*item):
                    self._done.put(outcome)
            except BaseException as error:
                self._done.put(error)
                self.stop()
            finally:
                self._unwritten.task_done()
        self._done.put(None)

    def _write(
        self, outcome: Outcome, channel: Channel, spec: OutputSpec, computing: Timed
    ) -> Outcome | None:
        """Write a picture; returns its outcome, or None if it was dropped."""
        bands, start = Timed(channel), time.perf_counter()
        target = outcome.job.target
        try:
            outcome.sha256 = formats.write(target, self._pipeline.kind, bands, spec)
        except Dropped:
            return None
        except (*DAMAGE, MemoryError) as error:
            # Without the name that the file has until it is complete.
            reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
            outcome.error, outcome.cause = f"cannot write {target}: {reason}", error
        finally:
            channel.drain()
        outcome.seconds["compute"] = computing.seconds
        outcome.seconds["encode"] = time.perf_counter() - start - bands.seconds
        return outcome


def is_fatal(outcome: Outcome) -> bool:
    """Whether it ends the run, as the next picture would fail like this one."""
    return isinstance(outcome.cause, OSError) and outcome.cause.errno in DISK


class _Stopped(Exception):
    """The run is stopping."""
