"""The command `lpnsr-run`."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.command import jobs, opening, process, progress, rehearsal, report, streams
from lpnsr.runtime.command.arguments import NAME, parse, recipe
from lpnsr.runtime.command.jobs import Job, JobError, Naming
from lpnsr.runtime.command.pipeline import Outcome, Pipeline, PipelineError
from lpnsr.runtime.manifest import BundleError
from lpnsr.runtime.pictures.formats import FORMATS, Format
from lpnsr.runtime.tiles.tiling import TilingError
from lpnsr.runtime.upscaler import Upscaler

_FATAL = (BackendError, BundleError, JobError, PipelineError, TilingError, OSError, MemoryError)
"""Errors that concern the run as a whole, not one picture."""


def main(argv: Sequence[str] | None = None) -> int:
    """Upscale pictures as the command line says.

    Args:
        argv: arguments, by default those of the process.

    Returns:
        Exit code: 0 if all pictures are written, 1 if some of several are not, 2 if a single one is
        not or the run cannot start or go on, 128 plus the signal's number if interrupted.
    """
    args = parse(argv)
    try:
        return _run(args)
    except KeyboardInterrupt:
        _say("interrupted before the first picture")
        return 128 + signal.SIGINT
    except _FATAL as error:
        _explain(error, args.debug)
        return 2


def _run(args: argparse.Namespace) -> int:
    opening.prepare(args.max_megapixels, args.threads)
    kind = FORMATS[args.format or _format_of(args.output)]
    args.quiet |= streams.STANDARD in (*args.inputs, args.output)
    with streams.replaced(args.inputs, args.output, kind.suffixes[0]) as (inputs, output):
        naming = Naming(kind.suffixes, args.suffix, args.pattern)
        replace = args.overwrite or args.skip_existing or args.dry_run
        plan = jobs.plan(inputs, output, naming, replace=replace, warn=_say)
        if args.report:
            jobs.check_report(args.report, plan.jobs)
        existing = {job for job in plan.jobs if args.skip_existing and job.target.exists()}
        skipped = [job for job in plan.jobs if job in existing]
        todo = [job for job in plan.jobs if job not in existing]
        if skipped and not args.quiet:
            _say(f"{len(skipped)} of {len(plan.jobs)} pictures exist and are skipped")
        for source, reason in plan.unread.items():
            _say(f"{source} {reason}")
        with nullcontext() if args.debug else process.quiet_decoders():
            if args.dry_run:
                return _rehearse(args, todo, len(plan.unread))
            return _upscale(args, kind, todo, skipped, plan.unread)


def _upscale(
    args: argparse.Namespace,
    kind: Format,
    todo: list[Job],
    skipped: list[Job],
    unread: dict[Path, str],
) -> int:
    """Upscale and report what is to be done; returns the exit code."""
    outcomes: list[Outcome] = []
    with progress.bars(todo, args.quiet) as bars, process.signals() as (stop, received):
        upscaler = _upscaler(args)
        pipeline = Pipeline(
            upscaler, recipe(args), kind, args.quality, _say, bars.show, stop, args.salvage
        )
        try:
            for outcome in pipeline.run(todo):
                outcomes.append(outcome)
                _comment(outcome, args)
                bars.end(outcome.job)
        finally:
            # They arrive in any order, but are reported in that of the inputs.
            place = {job: number for number, job in enumerate(todo)}
            outcomes.sort(key=lambda outcome: place[outcome.job])
            if args.report:
                report.write(args.report, _shared(args, upscaler), outcomes, skipped, unread)
    return _close(outcomes, len(todo), len(unread), received)


def _rehearse(args: argparse.Namespace, todo: list[Job], unread: int) -> int:
    """Tell what `_upscale` would do; returns the exit code that is to be expected."""
    pixels, failed = rehearsal.sizes(todo, recipe(args), _tell, _say)
    if pixels:
        seconds = pixels * rehearsal.seconds_per_pixel(_upscaler(args))
        _tell(
            f"{len(todo) - failed} pictures, {pixels / 1e6:.2f} megapixels: "
            f"about {rehearsal.duration(seconds)}"
        )
    return _exit_code(failed + unread, len(todo) + unread)


def _upscaler(args: argparse.Namespace) -> Upscaler:
    upscaler = opening.upscaler(args)
    if args.backend == "auto" and not args.quiet:
        _say(f"runs with {upscaler.choice}")
    return upscaler


def _format_of(output: Path | None) -> str:
    """The format that the output's name asks for, PNG if it names a folder."""
    suffix = "" if output is None or output.is_dir() else output.suffix.lower()
    return next((name for name, kind in FORMATS.items() if suffix in kind.suffixes), "png")


def _shared(args: argparse.Namespace, upscaler: Upscaler) -> dict[str, object]:
    return {
        "seed": args.seed,
        "model": upscaler.bundle.manifest.preset,
        "variant": upscaler.bundle.manifest.variant,
        "backend": upscaler.backend.describe(),
    }


def _close(outcomes: Sequence[Outcome], asked: int, unread: int, received: list[int]) -> int:
    """Say how the run went; returns the exit code."""
    failed = [
        _message(outcome.error, outcome.job) for outcome in outcomes if outcome.error is not None
    ]
    if failed and asked > 1:
        _say(f"{len(failed)} of {asked} pictures failed:")
        for message in failed:
            _say(f"  {message}")
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
    return _exit_code(len(failed) + unread, asked + unread)


def _exit_code(failed: int, asked: int) -> int:
    if not failed:
        return 0
    return 1 if asked > 1 else 2


def _comment(outcome: Outcome, args: argparse.Namespace) -> None:
    """Say what became of a picture, what went wrong and what got lost."""
    if outcome.cause:
        _explain(outcome.cause, args.debug, outcome)
        return
    if outcome.lost:
        _say(f"warning: {outcome.job.source}: {', '.join(outcome.lost)} dropped")
    if outcome.output_size and not args.quiet:
        height, width = outcome.output_size
        seconds = sum(outcome.seconds.values())
        job = outcome.job
        _tell(f"{job.source} -> {job.target}: {width}x{height}, {seconds:.1f} s")


def _tell(line: str) -> None:
    """Print a result."""
    encoding = sys.stdout.encoding or "utf-8"
    line = " ".join(line.split()).encode(encoding, "backslashreplace").decode(encoding)
    tqdm.write(line, file=sys.stdout)


def _explain(error: BaseException, debug: bool, outcome: Outcome | None = None) -> None:
    """Say in one line what is wrong; with `debug` also where."""
    if debug:
        tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr, end="")
    if outcome and outcome.error is not None:
        _say(_message(outcome.error, outcome.job))
    else:
        _say(str(error) or "not enough memory")


def _message(error: str, job: Job) -> str:
    """The error in one line that names the picture."""
    return error if str(job.source) in error else f"{job.source}: {error}"


def _say(message: str) -> None:
    indent = message[: len(message) - len(message.lstrip())]
    tqdm.write(f"{NAME}: {indent}{' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
