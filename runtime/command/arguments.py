"""The arguments of the command `lpnsr-run`."""

from __future__ import annotations

import argparse
import math
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NoReturn

from lpnsr.runtime import backends
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.command.recipe import ALPHA
from lpnsr.runtime.pictures.formats import FORMATS

NAME = "lpnsr-run"


class _Parser(argparse.ArgumentParser):
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


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = _Parser(
        prog=NAME, description="Make pictures up to four times as large, with super-resolution."
    )
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="INPUT", help="picture, or folder of pictures")
    add("-o", "--output", type=Path, required=True, metavar="OUT", help="folder, or one file")
    _add_files(parser.add_argument_group("files"))
    _add_output(parser.add_argument_group("output"))
    _add_model(parser.add_argument_group("model"))
    add(
        "--list",
        action=_List,
        nargs=0,
        help="show which models, backends and devices are here, and what the others lack",
    )
    add("--debug", action="store_true", help="show where an error comes from")
    add("--version", action="version", version=f"%(prog)s {_version()}")
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
    add("--pattern", default="*", metavar="GLOB", help='which files of a folder, e.g. "IMG_*.jpg"')
    add("--suffix", type=_suffix, default="", help="put behind each output's name, e.g. _x4")
    add("--report", type=Path, metavar="JSON", help="file for an account of every picture")
    add(
        "--max-megapixels",
        type=_megapixels,
        default=200.0,
        metavar="N",
        help="refuse larger inputs, which may be decompression bombs (default: 200)",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--format",
        choices=list(FORMATS),
        help="of the output files (default: as OUT's name says, else png)",
    )
    add(
        "--quality",
        type=_quality,
        default=95,
        metavar="N",
        help="1 to 100, of JPEG and WebP; WebP is lossless at 100 (default: 95)",
    )
    add(
        "--scale",
        type=_scale,
        default=4.0,
        metavar="X",
        help="1 to 4, any number; less than 4 is upscaled x4 and reduced (default: 4)",
    )
    add("--max-side", type=_positive, metavar="PIXELS", help="reduce larger outputs to this")
    add(
        "--alpha",
        choices=ALPHA,
        default="bicubic",
        help="how transparency is upscaled (default: bicubic)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--model",
        type=Path,
        default=BUILTIN,
        metavar="BUNDLE",
        help="folder made by lpnsr-export, or the name of a model in the cache, as --list shows "
        "them (default: the built-in model)",
    )
    add("--seed", type=_seed, default=0, help="of the noise; same seed, same picture (default: 0)")
    add("--deterministic", action="store_true", help="use only the mean of the predicted noise")
    add("--tile", type=_tile, metavar="HxW", help="tile of the model in input pixels, e.g. 128x64")
    add(
        "--overlap",
        type=_count,
        metavar="PIXELS",
        help="least overlap of tiles in input pixels (default: 8 or 16, what costs less)",
    )
    add("--batch", type=_positive, metavar="N", help="tiles to run at once")
    add("--backend", choices=backends.NAMES, default="auto", help="inference engine")
    add(
        "--precision",
        choices=backends.PRECISIONS,
        default="auto",
        help="that the engine computes in (default: the fastest in which the model is accurate)",
    )
    add("--threads", type=_positive, metavar="N", help="CPU threads (default: the engine decides)")
    add(
        "--no-color-fix",
        dest="color_fix",
        action="store_false",
        help="keep the model's large-scale colors instead of the input's",
    )


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


def _suffix(text: str) -> str:
    if "/" in text or "\\" in text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not part of a file name")
    return text


def _scale(text: str) -> float:
    return _real(text, 1, 4)


def _megapixels(text: str) -> float:
    return _real(text, 0.001, 1e6)


def _real(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least:g} to {most:g}")
    return value


def _seed(text: str) -> int:
    return _integer(text, 0, 2**64 - 1)


def _quality(text: str) -> int:
    return _integer(text, 1, 100)


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
