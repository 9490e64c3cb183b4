"""`lpnsr-train`: degraded pairs, and the stages of training."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from lpnsr.models.training.config import DIFFUSION_STAGES, STAGES

EXTRA = "pip install 'lpnsr[train]'"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    args = _parser().parse_args(argv)
    try:
        from lpnsr.models.training import commands
    except ImportError as error:
        print(f"lpnsr-train: {error.name} is not installed; run: {EXTRA}", file=sys.stderr)
        return 2
    from lpnsr.models.checkpoints import CheckpointError
    from lpnsr.models.presets import PresetError
    from lpnsr.models.training.errors import TrainingError

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        getattr(commands, args.run)(args)
    except KeyboardInterrupt:
        print("lpnsr-train: interrupted; --resume goes on from the checkpoint", file=sys.stderr)
        return 130
    except (CheckpointError, PresetError, TrainingError, OSError) as error:
        if args.debug:
            raise
        print(f"lpnsr-train: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lpnsr-train",
        description="Make degraded pairs, and train the networks, one stage at a time.",
        epilog="exit codes: 0 done, 2 bad input or a missing package, 130 interrupted; --resume "
        "goes on",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('lpnsr')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for stage in (*STAGES, *DIFFUSION_STAGES):
        name = stage.replace("_", "-")
        _add_stage(commands.add_parser(name, help=f"train the {name}"), stage)
    _add_degrade(commands.add_parser("degrade", help="make a folder of degraded pairs"))
    _add_draw(commands.add_parser("draw", help="make a folder of lettering, line art, flat areas"))
    _add_teach(commands.add_parser("teach", help="blend a teacher's pictures into pairs"))
    estimate = commands.add_parser("estimate", help="print the memory that training takes")
    estimate.add_argument("--config", type=Path, required=True, metavar="FILE")
    estimate.set_defaults(run="estimate")
    return parser


def _add_stage(parser: argparse.ArgumentParser, stage: str) -> None:
    parser.set_defaults(run="train", stage=stage)
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="TOML configuration")
    reduced = "photographs, drawings: reduced with a bicubic filter"
    add("--photos", type=Path, nargs="+", metavar="DIR", help=reduced)
    add("--pairs", type=Path, nargs="+", metavar="DIR", help="degraded pairs: `degrade`, `teach`")
    add("--validation", type=Path, metavar="DIR", help="photographs for the contact sheet")
    add("--out", type=Path, required=True, metavar="DIR", help="weights, checkpoint, log, sheet")
    add("--weights", type=Path, metavar="DIR", help="the frozen networks (default: --out)")
    add("--init", type=Path, metavar="FILE", help="weights to start from (default: random)")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--device", choices=("cpu", "cuda"), help="default: CUDA where there is any")


def _add_degrade(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="degrade")
    add = parser.add_argument
    add("photos", type=Path, nargs="+", metavar="PHOTO", help="files or folders")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="gets lr/ and hr/")
    add("--versions", type=int, default=1, metavar="N", help="pairs of each photograph")
    add("--crop", type=int, metavar="SIDE", help="random crops of this side; default: whole")
    add("--hold-out", nargs="*", default=[], metavar="NAME", help="file names to leave out")
    add("--process", choices=("two-stage", "old-jpeg"), default="two-stage")
    add("--seed", type=int, default=0)


def _add_draw(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="draw")
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="DIR")
    add("--count", type=int, default=100, metavar="N")
    add("--fonts", type=Path, metavar="DIR", help="TrueType fonts (default: Pillow's own)")
    add("--seed", type=int, default=0)


def _add_teach(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run="teach")
    add = parser.add_argument
    add("pairs", type=Path, metavar="PAIRS", help="made by `degrade`")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="gets lr/ and hr/")
    share = "of the teacher's picture; the rest is the original's (default: 0.8)"
    add("--share", type=float, default=0.8, metavar="S", help=share)


if __name__ == "__main__":
    sys.exit(main())
