"""The arguments of the command `lpnsr-run`."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from lpnsr.runtime import backends
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.command.recipe import ALPHA, Recipe
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.tiles.sizes import parse_tile

NAME = "lpnsr-run"

_INPUT = "picture, or folder of pictures; - is standard input"

_OUTPUT = "folder, or one file, or - for standard output (default: beside the input, photo_x4.png)"

_EXIT_CODES = """\
exit codes:
  0  all pictures are written
  1  some of several are not
  2  the only one is not, or the run cannot start or go on
  130, 143  interrupted by Ctrl-C or SIGTERM; --skip-existing resumes"""


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with a command line."""

    def error(self, message: str) -> NoReturn:
        """Exit with one line, without the usage."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class _List(argparse.Action):
    """Shows what is here and ends, whatever else is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Print and exit; what it takes is imported when it is asked for."""
        from lpnsr.runtime.command import listing

        print(listing.describe())
        parser.exit()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, by default that of the process; completes it where a shell asks for that.

    Raises:
        SystemExit: it makes no sense, or asks for help or the version.
    """
    command = parser()
    if "_ARGCOMPLETE" in os.environ:
        with suppress(ImportError):
            import argcomplete

            argcomplete.autocomplete(command)
    args = command.parse_intermixed_args(argv)
    args.inputs += args.more_inputs
    if not args.inputs:
        command.error("the following arguments are required: INPUT")
    settle_size(command, args)
    if args.suffix is None:
        args.suffix = "" if args.output else _mark(args)
    return args


def settle_size(command: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Turn --size into --width and --height.

    Raises:
        SystemExit: --width or --height is given, too.
    """
    if args.size:
        if args.width or args.height:
            command.error("argument --size: not allowed with --width and --height")
        args.width, args.height = args.size


def recipe(args: argparse.Namespace) -> Recipe:
    """What the arguments of `add_output` and `add_noise` say."""
    return Recipe(
        seed=args.seed,
        deterministic=args.deterministic,
        color_fix=args.color_fix,
        alpha=args.alpha,
        scale=args.scale,
        max_side=args.max_side,
        width=args.width,
        height=args.height,
    )


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = Parser(
        prog=NAME,
        description="Make pictures up to four times as large, with super-resolution.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("inputs", nargs="*", type=Path, metavar="INPUT", help=_INPUT)
    add(
        *("-i", "--input"),
        nargs="+",
        default=[],
        dest="more_inputs",
        type=Path,
        metavar="INPUT",
        help="the same",
    )
    add("-o", "--output", type=Path, metavar="OUT", help=_OUTPUT)
    _add_files(parser.add_argument_group("files"))
    add_output(parser.add_argument_group("output"))
    model = parser.add_argument_group("model")
    add_model(model)
    add_noise(model)
    add_engine(parser.add_argument_group("engine"))
    _add_messages(parser.add_argument_group("messages"))
    return parser


def _add_files(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    existing = group.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite", action="store_true", help="replace output files that exist"
    )
    existing.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out pictures whose output exists; resumes a run",
    )
    add("--report", type=Path, metavar="JSON", help="file for an account of every picture")
    add(
        "--suffix",
        type=suffix,
        help="appended to each output's name (default: none, without -o such as _x4)",
    )
    add_reading(group)


def add_reading(group: argparse._ArgumentGroup) -> None:
    """Add which files are read, and how."""
    add = group.add_argument
    add("--pattern", default="*", metavar="GLOB", help='which files of a folder, e.g. "IMG_*.jpg"')
    add(
        "--salvage",
        action="store_true",
        help="take of damaged JPEGs what can be decoded; the rest is grey",
    )
    add(
        "--max-megapixels",
        type=megapixels,
        default=200.0,
        metavar="N",
        help="refuse larger inputs, which may be decompression bombs (default: 200)",
    )


def add_output(group: argparse._ArgumentGroup) -> None:
    """Add what the output files are: their format and size."""
    add = group.add_argument
    add(
        "--format",
        choices=list(FORMATS),
        help="of the output files (default: as OUT's name says, else png)",
    )
    add(
        "--quality",
        type=quality,
        default=95,
        metavar="N",
        help="1 to 100, of JPEG and WebP; WebP is lossless at 100 (default: 95)",
    )
    add(
        *("-s", "--scale"),
        type=scale,
        default=4.0,
        metavar="X",
        help="1 to 4, any number; less than 4 is upscaled x4 and reduced, for as much work "
        "(default: 4)",
    )
    add("--width", type=positive, metavar="PIXELS", help="reduce wider outputs to this")
    add("--height", type=positive, metavar="PIXELS", help="reduce higher outputs to this")
    add("--size", type=_size, metavar="WxH", help="both; the proportions are kept")
    add("--max-side", type=positive, metavar="PIXELS", help="reduce larger outputs to this")
    add(
        "--alpha",
        choices=ALPHA,
        default="bicubic",
        help="how transparency is upscaled (default: bicubic)",
    )


def add_model(group: argparse._ArgumentGroup) -> None:
    """Add which model to use, and how it cuts a picture."""
    add = group.add_argument
    add(
        "--model",
        type=Path,
        default=BUILTIN,
        metavar="BUNDLE",
        help="folder made by lpnsr-export, or the name of a model in the cache, as --list shows "
        "them (default: the built-in model)",
    )
    add(
        "-t",
        "--tile",
        type=parse_tile,
        metavar="HxW",
        help="tile of the model in input pixels, e.g. 128x64",
    )
    add(
        "--overlap",
        type=natural,
        metavar="PIXELS",
        help="least overlap of tiles in input pixels (default: 8 or 16, what costs less)",
    )


def add_noise(group: argparse._ArgumentGroup) -> None:
    """Add what the noise is, and what comes from the input instead."""
    add = group.add_argument
    add("--seed", type=seed, default=0, help="of the noise; same seed, same picture (default: 0)")
    add("--deterministic", action="store_true", help="use only the mean of the predicted noise")
    add(
        "--no-color-fix",
        dest="color_fix",
        action="store_false",
        help="keep the model's large-scale colours instead of the input's",
    )


def add_engine(group: argparse._ArgumentGroup) -> None:
    """Add which engine runs the model, and how."""
    add = group.add_argument
    add("--batch", type=positive, metavar="N", help="tiles to run at once")
    add("--backend", choices=backends.NAMES, default="auto", help="inference engine")
    add(
        "--precision",
        choices=backends.PRECISIONS,
        default="auto",
        help="that the engine computes in (default: the fastest in which the model is accurate)",
    )
    add("--threads", type=positive, metavar="N", help="CPU threads (default: the engine decides)")
    add(
        *("-g", "--gpu"),
        type=natural,
        metavar="N",
        help="NVIDIA GPU to use, as nvidia-smi numbers them (default: 0)",
    )


def _add_messages(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--list",
        action=_List,
        nargs=0,
        help="show which models, backends and devices are here, and what the others lack",
    )
    add("--dry-run", action="store_true", help="show the sizes and roughly how long it would take")
    add("-q", "--quiet", action="store_true", help="say only what goes wrong")
    add("--debug", action="store_true", help="show where an error comes from")
    add("--version", action="version", version=f"%(prog)s {installed()}")


def _mark(args: argparse.Namespace) -> str:
    """What distinguishes an output from the input beside it."""
    if args.width and args.height:
        return f"_{args.width}x{args.height}"
    if args.width or args.height:
        return f"_w{args.width}" if args.width else f"_h{args.height}"
    return f"_x{args.scale:g}"


def installed() -> str:
    """The version of the package."""
    try:
        return version("lpnsr")
    except PackageNotFoundError:
        return "(not installed)"


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9][0-9]{0,8})x([1-9][0-9]{0,8})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 1920x1080")
    return int(match[1]), int(match[2])


def suffix(text: str) -> str:
    """What is appended to a name."""
    if "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not part of a file name")
    return text


def scale(text: str) -> float:
    """A factor from 1 to 4; like all readers of values, raises `ArgumentTypeError` otherwise."""
    return _real(text, 1, 4)


def megapixels(text: str) -> float:
    """Millions of pixels."""
    return _real(text, 0.001, 1e6)


def _real(text: str, least: float, most: float) -> float:
    try:
        value = float(text) if text.isascii() else math.nan
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
    return value


def seed(text: str) -> int:
    """A seed of the noise."""
    return whole(text, 0, 2**64 - 1)


def quality(text: str) -> int:
    """The quality of a lossy format, 1 to 100."""
    return whole(text, 1, 100)


def natural(text: str) -> int:
    """A whole number, 0 or more."""
    return whole(text, 0)


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    return whole(text, 1)


def whole(text: str, least: int, most: int | None = None) -> int:
    """A whole number, `least` or more and at most `most`."""
    value = int(text) if re.fullmatch("[0-9]{1,20}", text) else -1
    if value < least or (most is not None and value > most):
        limit = f"{least} or more" if most is None else f"{least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {limit}")
    return value
