"""The command `lpnsr-run`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Event
from types import FrameType

import cv2
from PIL import Image
from tqdm import tqdm

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bundle import BundleError
from lpnsr.runtime.command import jobs, report
from lpnsr.runtime.command.arguments import NAME, parser
from lpnsr.runtime.command.jobs import Job, JobError, Naming
from lpnsr.runtime.command.pipeline import Outcome, Pipeline
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.tiles.tiling import TilingError
from lpnsr.runtime.upscaler import Upscaler

_FATAL = (BackendError, BundleError, JobError, TilingError, OSError, MemoryError)
"""Errors that concern the run as a whole, not one picture."""


def main(argv: Sequence[str] | None = None) -> int:
    """Upscale pictures as the command line says.

    Args:
        argv: arguments, by default those of the process.

    Returns:
        Exit code: 0 if all pictures are written, 1 if some of several are not, 2 if a single one is
        not or the run cannot start or go on, 128 plus the signal's number if interrupted.
    """
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except KeyboardInterrupt:
        _say("interrupted before the first picture")
        return 128 + signal.SIGINT
    except _FATAL as error:
        _explain(error, args.debug)
        return 2


def _run(args: argparse.Namespace) -> int:
    Image.MAX_IMAGE_PIXELS = int(args.max_megapixels * 5e5)  # Pillow refuses twice that
    if args.threads:
        cv2.setNumThreads(args.threads)
    kind = FORMATS[args.format or _format_of(args.output)]
    naming = Naming(kind.suffixes, args.suffix, args.pattern)
    replace = args.overwrite or args.skip_existing
    plan = jobs.plan(args.inputs, args.output, naming, replace=replace, warn=_say)
    planned = plan.jobs
    if args.report:
        jobs.check_report(args.report, planned)
    skipped = dict.fromkeys(job for job in planned if args.skip_existing and job.target.exists())
    todo = [job for job in planned if job not in skipped]
    if skipped:
        _say(f"{len(skipped)} of {len(planned)} pictures exist and are skipped")
    for source, reason in plan.unread.items():
        _say(f"{source} {reason}")
    outcomes: list[Outcome] = []
    with (
        nullcontext() if args.debug else _quiet_decoders(),
        _bars(len(todo)) as (pictures, tiles),
        _signals() as (stop, received),
    ):
        upscaler = Upscaler.from_bundle(
            args.model,
            backend=args.backend,
            tile=args.tile,
            batch=args.batch,
            overlap=args.overlap,
            threads=args.threads,
            precision=args.precision,
        )
        if args.backend == "auto":
            _say(f"runs with {upscaler.choice}")
        pipeline = Pipeline(
            upscaler, _recipe(args), kind, args.quality, _say, tiles.show, stop, args.salvage
        )
        try:
            for outcome in pipeline.run(todo):
                outcomes.append(outcome)
                _comment(outcome, args.debug)
                pictures.update()
        finally:
            if args.report:
                shared = _shared(args, upscaler)
                report.write(args.report, shared, outcomes, list(skipped), plan.unread)
    return _close(outcomes, len(todo), len(plan.unread), received)


def _format_of(output: Path) -> str:
    """The format that the output's name asks for, PNG if it names a folder."""
    suffix = "" if output.is_dir() else output.suffix.lower()
    return next((name for name, kind in FORMATS.items() if suffix in kind.suffixes), "png")


def _recipe(args: argparse.Namespace) -> Recipe:
    return Recipe(
        args.seed, args.deterministic, args.color_fix, args.alpha, args.scale, args.max_side
    )


def _shared(args: argparse.Namespace, upscaler: Upscaler) -> dict[str, object]:
    return {
        "seed": args.seed,
        "model": upscaler.bundle.manifest.preset,
        "variant": upscaler.bundle.manifest.variant,
        "backend": upscaler.backend.describe(),
    }


def _close(outcomes: Sequence[Outcome], asked: int, unread: int, received: list[int]) -> int:
    """Say how the run went; returns the exit code."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    if failed and asked > 1:
        _say(f"{len(failed)} of {asked} pictures failed:")
        for outcome in failed:
            _say(f"  {_message(outcome.error, outcome.job)}")
    if unread and asked + unread > 1:
        _say(f"{unread} of {asked + unread} pictures are of kinds that are not read")
    if received and len(outcomes) < asked:
        _say(
            f"interrupted after {len(outcomes)} of {asked} pictures; to resume, "
            "run the same command with --skip-existing"
        )
        return 128 + received[0]
    if len(outcomes) < asked:
        _say(
            f"{asked - len(outcomes)} of {asked} pictures were not tried; to go on, "
            "run the same command with --skip-existing"
        )
        return 2
    if failed or unread:
        return 1 if asked + unread > 1 else 2
    return 0


@contextmanager
def _signals() -> Iterator[tuple[Event, list[int]]]:
    """Let Ctrl-C and SIGTERM end the run in order: sets an event, lists the signals."""
    stop, received = Event(), []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Keep decoders' logs and libraries written in C, which comment on damage, off stderr."""
    for name in ("PIL", "tifffile"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    sys.stderr.flush()
    before, descriptor = sys.stderr, os.dup(2)
    with (
        open(os.devnull, "wb") as null,
        open(os.dup(2), "w", buffering=1, errors="backslashreplace") as own,
    ):
        os.dup2(null.fileno(), 2)
        sys.stderr = own
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(descriptor, 2)
            os.close(descriptor)


class _Tiles:
    """A progress bar over the tiles of the picture in work."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar
        self._job: Job | None = None

    def show(self, job: Job, done: int, total: int) -> None:
        """Show that `done` of `total` tiles are done."""
        if self._job != job:
            self._job = job
            self._bar.set_description(job.source.name, refresh=False)
            self._bar.reset(total)
        self._bar.update(done - self._bar.n)


@contextmanager
def _bars(pictures: int) -> Iterator[tuple[tqdm, _Tiles]]:
    with (
        tqdm(total=pictures, desc="pictures", unit="picture", disable=None) as outer,
        tqdm(desc="tiles", unit="tile", leave=False, disable=None) as inner,
    ):
        yield outer, _Tiles(inner)


def _comment(outcome: Outcome, debug: bool) -> None:
    """Say what went wrong with a picture or got lost."""
    if outcome.cause:
        _explain(outcome.cause, debug, outcome)
    elif outcome.lost:
        _say(f"warning: {outcome.job.source}: {', '.join(outcome.lost)} dropped")


def _explain(error: BaseException, debug: bool, outcome: Outcome | None = None) -> None:
    """Say in one line what is wrong; with `debug` also where."""
    if debug:
        tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr, end="")
    _say(_message(outcome.error, outcome.job) if outcome else str(error) or "not enough memory")


def _message(error: str, job: Job) -> str:
    """The error in one line that names the picture."""
    return error if str(job.source) in error else f"{job.source}: {error}"


def _say(message: str) -> None:
    indent = message[: len(message) - len(message.lstrip())]
    tqdm.write(f"{NAME}: {indent}{' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
