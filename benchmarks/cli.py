"""`lpnsr-bench`: prints every figure that this project states."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import NoReturn

COMMANDS = {
    "quick": "this machine with the built-in model, in every engine",
    "table": "a published runtime table, beside what this machine reaches in every engine",
    "folder": "seconds per output megapixel of a folder of pictures, files included",
    "serve": "pictures per second and latency of the server, against those of lpnsr-run",
    "bulk": "what shards and Ray cost over lpnsr-run, or what planning millions of paths takes",
    "training": "seconds and memory of a training iteration, beside UPSR's table 3",
    "scaling": "time and memory against picture size and batch, with fitted exponents",
    "quality": "PSNR, SSIM and perceptual metrics of models beside bicubic interpolation",
    "patches": "flat areas, ramps, lettering and greys, which should come out as they are",
    "noise": "what the noise predictor is worth in chains of one to four steps",
    "check": "one page on a model here: verified, and timed in every backend, for an issue",
    "stages": "seconds of each stage in PyTorch, ONNX Runtime and OpenVINO, and its PSNR",
}
"""Subcommand -> what it measures. Each is a module here, with `add_arguments` and `run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = argparse.ArgumentParser(
        prog="lpnsr-bench",
        description="Print the figures that this project states, measured on this machine.",
        epilog="exit codes: 0 done, 1 a check failed, 2 bad input or a missing package, "
        "130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('lpnsr')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, purpose in COMMANDS.items():
        command = commands.add_parser(
            name, help=purpose, description=f"{purpose[0].upper()}{purpose[1:]}."
        )
        # Only the asked-for module is loaded: the others may need packages that are not there.
        if argv[:1] == [name]:
            module = _load(name, parser)
            module.add_arguments(command)
    args = parser.parse_args(argv)
    try:
        return module.run(args)
    except KeyboardInterrupt:
        return 130
    except ImportError as error:  # of what only measuring needs
        _refuse(args.command, error, parser)
    except (ValueError, RuntimeError, MemoryError, OSError) as error:
        why = str(error) or "memory has run out"
        print(f"lpnsr-bench {args.command}: {why}", file=sys.stderr)
        return 2


def _load(name: str, parser: argparse.ArgumentParser) -> ModuleType:
    try:
        return import_module(f"lpnsr.benchmarks.{name}")
    except ImportError as error:
        _refuse(name, error, parser)


def _refuse(name: str, error: ImportError, parser: argparse.ArgumentParser) -> NoReturn:
    extra = "bulk" if error.name in ("fsspec", "pyarrow", "ray") else "bench"
    parser.exit(2, f"{parser.prog} {name}: {error}; run: pip install 'lpnsr[{extra}]'\n")


if __name__ == "__main__":
    sys.exit(main())
