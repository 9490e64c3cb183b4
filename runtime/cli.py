"""The command `lpnsr-run`."""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from lpnsr.runtime import backends, images, jobs
from lpnsr.runtime.backends import BackendError
from lpnsr.runtime.bundle import BUILTIN, BundleError
from lpnsr.runtime.images import ImageError
from lpnsr.runtime.jobs import Job, JobError
from lpnsr.runtime.tiling import TilingError
from lpnsr.runtime.upscaler import UpscaleError, Upscaler

NAME = "lpnsr-run"

_FATAL = (BackendError, BundleError, JobError, TilingError, OSError)
"""Errors that concern the run as a whole, not one picture."""

_PICTURE = (ImageError, UpscaleError, MemoryError)
"""Errors that concern one picture; the run goes on."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Exit with one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Upscale pictures as the command line says.

    Args:
        argv: arguments, by default those of the process.

    Returns:
        Exit code: 0 if all pictures are written, 1 if some are not, 2 if none is or the run cannot
        start, 130 if interrupted.
    """
    args = _parser().parse_args(argv)
    try:
        planned = jobs.plan(args.inputs, args.output, overwrite=args.overwrite)
        failed = _run(planned, args)
    except KeyboardInterrupt:
        _say("interrupted; pictures finished so far are kept")
        return 130
    except _FATAL as error:
        _report(error, args.debug)
        return 2
    if failed and len(planned) > 1:
        _say(f"{failed} of {len(planned)} pictures failed")
    if failed:
        return 1 if len(planned) > 1 else 2
    return 0


def _run(planned: Sequence[Job], args: argparse.Namespace) -> int:
    """Upscale all pictures; returns how many failed."""
    failed = 0
    with tqdm(planned, desc="loading the model", unit="picture", disable=None) as bar:
        upscaler = Upscaler.from_bundle(
            args.model,
            backend=args.backend,
            tile=args.tile,
            batch=args.batch,
            overlap=args.overlap,
            threads=args.threads,
        )
        bar.set_description("pictures")
        for job in bar:
            try:
                _upscale(upscaler, job, args)
            except _PICTURE as error:
                failed += 1
                _report(error, args.debug, job)
    return failed


def _upscale(upscaler: Upscaler, job: Job, args: argparse.Namespace) -> None:
    picture = images.read(job.source)
    if picture.lost:
        _say(f"warning: {job.source}: {', '.join(picture.lost)} dropped")
    with tqdm(desc=job.source.name, unit="tile", leave=False, disable=None) as bar:
        pixels = upscaler.upscale(
            picture.pixels,
            seed=args.seed,
            deterministic=args.deterministic,
            color_fix=args.color_fix,
            progress=partial(_show, bar),
        )
    images.write(job.target, pixels, picture.profile)


def _show(bar: tqdm, done: int, total: int) -> None:
    if bar.total != total:
        bar.reset(total)
    bar.update(done - bar.n)


def _report(error: BaseException, debug: bool, job: Job | None = None) -> None:
    """Say in one line what is wrong; with `debug` also where."""
    if debug:
        tqdm.write("".join(traceback.format_exception(error)), file=sys.stderr, end="")
    message = str(error)
    if isinstance(error, MemoryError):
        message = "not enough memory; crop or split the picture"
    if job and str(job.source) not in message:
        message = f"{job.source}: {message}"
    _say(message)


def _say(message: str) -> None:
    tqdm.write(f"{NAME}: {' '.join(message.split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=NAME, description="Make pictures four times as large with LPNSR super-resolution."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="picture, or folder of pictures")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="folder, or one .png file")
    add("--overwrite", action="store_true", help="replace output files that exist")
    add(
        "--model",
        type=Path,
        default=BUILTIN,
        metavar="BUNDLE",
        help="folder made by lpnsr-export (default: the built-in model)",
    )
    add("--seed", type=_seed, default=0, help="of the noise; same seed, same picture (default: 0)")
    add("--deterministic", action="store_true", help="use only the mean of the predicted noise")
    add("--tile", type=_tile, metavar="HxW", help="tile of the model in input pixels, e.g. 128x64")
    add(
        "--overlap",
        type=_count,
        default=16,
        metavar="PIXELS",
        help="least overlap of tiles in input pixels (default: 16)",
    )
    add("--batch", type=_positive, metavar="N", help="tiles to run at once")
    add("--backend", choices=backends.NAMES, default="auto", help="inference engine")
    add("--threads", type=_positive, metavar="N", help="CPU threads (default: the engine decides)")
    add(
        "--no-color-fix",
        dest="color_fix",
        action="store_false",
        help="keep the model's large-scale colors instead of the input's",
    )
    add("--debug", action="store_true", help="show where an error comes from")
    add("--version", action="version", version=f"%(prog)s {_version()}")
    return parser


def _version() -> str:
    try:
        return version("lpnsr")
    except PackageNotFoundError:
        return "(not installed)"


def _tile(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a tile such as 64 or 128x64")
    return int(match[1]), int(match[2] or match[1])


def _seed(text: str) -> int:
    return _integer(text, 0, 2**64 - 1)


def _count(text: str) -> int:
    return _integer(text, 0, None)


def _positive(text: str) -> int:
    return _integer(text, 1, None)


def _integer(text: str, least: int, most: int | None) -> int:
    limit = f"{least} or more" if most is None else f"{least} to {most}"
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least or (most is not None and value > most):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {limit}")
    return value


if __name__ == "__main__":
    sys.exit(main())
