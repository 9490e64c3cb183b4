"""The command `lpnsr-bulk`."""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from tqdm import tqdm

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.command import opening, process
from lpnsr.runtime.command.arguments import (
    Parser,
    add_engine,
    add_model,
    add_noise,
    add_output,
    add_reading,
    installed,
    megapixels,
    natural,
    positive,
    recipe,
    settle_size,
    suffix,
)
from lpnsr.runtime.command.jobs import JobError
from lpnsr.runtime.command.pipeline import PipelineError
from lpnsr.runtime.manifest import BundleError
from lpnsr.runtime.tiles.tiling import TilingError
from lpnsr.runtime.upscaler import UpscaleError

if TYPE_CHECKING:
    from lpnsr.runtime.bulk.plan import Plan
    from lpnsr.runtime.bulk.status import Status
    from lpnsr.runtime.bulk.storage import Folder

NAME = "lpnsr-bulk"

_FATAL = (
    *(BackendError, BundleError, JobError, PipelineError, TilingError, UpscaleError),
    *(OSError, MemoryError),
)

_PACKAGES = ("fsspec", "pyarrow", "ray")

_SHOWN = 10
"""Failures that the status shows."""

_EXIT_CODES = """\
exit codes:
  0  all pictures are written
  1  some are not: see lpnsr-bulk status, lpnsr-bulk retry --failed
  2  the run cannot start or go on
  130, 143  interrupted by Ctrl-C or SIGTERM; the same command goes on"""

Shard = tuple[int, int]
"""Number I of N, from 0."""


def main(argv: Sequence[str] | None = None) -> int:
    """Do one thing for a run on many machines.

    Args:
        argv: arguments, by default those of the process.

    Returns:
        Exit code: 0 if all pictures are written, 1 if some are not, 2 if the run cannot start or go
        on, 128 plus the signal's number if interrupted.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if "size" in args:
        settle_size(parser, args)
    try:
        return args.call(args)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except ImportError as error:
        if error.name not in _PACKAGES:
            raise
        _say(f"needs {error.name}; run: pip install 'lpnsr[bulk]'")
        return 2
    except _FATAL as error:
        _say(str(error) or "not enough memory")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog=NAME,
        description="Upscale millions of pictures on many machines.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {installed()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, call: Callable[[argparse.Namespace], int], purpose: str) -> Parser:
        added = commands.add_parser(name, help=purpose, description=f"{purpose.capitalize()}.")
        added.set_defaults(call=call)
        _add_run(added)
        return added

    for name, call, purpose in (
        ("run", _run, "list the pictures and upscale them; again, to go on"),
        ("plan", _plan, "only list the pictures and cut them into shards"),
    ):
        added = command(name, call, purpose)
        _add_planning(added)
        if name == "run":
            _add_workers(added.add_argument_group("workers"))
    work = command("work", _work, "work on a plan")
    work.add_argument("--model", type=Path, metavar="BUNDLE", help="where it is on this machine")
    work.add_argument("--threads", type=positive, metavar="N", help="CPU threads of a worker")
    work.add_argument("-g", "--gpu", type=natural, metavar="N", help="NVIDIA GPU to use")
    _add_workers(work)
    work.add_argument(
        "--shard",
        type=_shard,
        metavar="I/N",
        help="only this part of N, from 0: for job I of an array",
    )
    command("status", _status, "show how far the run has got")
    retry = command("retry", _retry, "let pictures be tried again when the run goes on")
    retry.add_argument("--failed", action="store_true", required=True, help="those that failed")
    report = command("report", _report, "write a line for every picture")
    report.add_argument(
        *("-o", "--output"), type=Path, required=True, metavar="FILE", help=".jsonl or .parquet"
    )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", required=True, metavar="FOLDER", help="path or URL of the run's plan and results"
    )


def _add_planning(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", metavar="INPUT", help="folder of pictures: a path, or a URL such as s3://in/")
    add("-o", "--output", required=True, metavar="OUTPUT", help="folder, the same way")
    add("--overwrite", action="store_true", help="write into an OUTPUT that is not empty")
    add(
        "--shard-megapixels",
        type=megapixels,
        default=1000.0,
        metavar="N",
        help="of the outputs of a shard (default: 1000, less where that makes under 8 shards)",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--suffix", type=suffix, default="", help="appended to each output's name")
    add_reading(files)
    add_output(parser.add_argument_group("output"))
    model = parser.add_argument_group("model")
    add_model(model)
    add_noise(model)
    add_engine(parser.add_argument_group("engine"))


def _add_workers(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let Ray start the workers: local, auto or host:port (default: work in this process)",
    )
    group.add_argument(
        "--workers",
        type=positive,
        metavar="N",
        help="that Ray starts (default: one for each GPU, or for --threads cores, or for 4)",
    )


def _shard(text: str) -> Shard:
    match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1, e.g. 0/16")
    return int(match[1]), int(match[2])


def _run(args: argparse.Namespace) -> int:
    _make_plan(args)
    args.shard = args.model = None  # the plan names the model
    return _work(args)


def _plan(args: argparse.Namespace) -> int:
    _make_plan(args)
    _tell(f"work on it with: {NAME} work --run {args.run}")
    return 0


def _make_plan(args: argparse.Namespace) -> None:
    """Make the plan, or see that the one that is there is the same."""
    from lpnsr.runtime.bulk import planning
    from lpnsr.runtime.bulk.plan import Plan, RunOptions, fingerprint, portable
    from lpnsr.runtime.bulk.storage import Folder

    run, bundle = Folder(args.run), Bundle.open(args.model)
    alike = {field.name: getattr(args, field.name, None) for field in fields(RunOptions)}
    wanted = Plan(
        input=Folder(args.input).url,
        output=Folder(args.output).url,
        model=portable(bundle),
        bundle=fingerprint(bundle),
        version=installed(),
        options=RunOptions(**alike | {"recipe": recipe(args), "format": args.format or "png"}),
    )
    if found := Plan.find(run):
        found.check_same(wanted, run)
        return
    if not args.overwrite:
        planning.check_empty(Folder(wanted.output))
    with tqdm(bar_format="{desc}", leave=False, disable=None) as bar:
        made = planning.make(
            wanted, run, args.shard_megapixels, _say, lambda text: bar.set_description_str(text)
        )
    pictures = sum(shard.pictures for shard in made.shards)
    _tell(f"{pictures:,} pictures in {len(made.shards):,} shards")


def _work(args: argparse.Namespace) -> int:
    """Work on all shards that are left, or on this part of them; returns the exit code."""
    from lpnsr.runtime.bulk.plan import Plan
    from lpnsr.runtime.bulk.status import Status, failures
    from lpnsr.runtime.bulk.storage import Folder

    if args.workers and not args.ray:
        raise JobError(f"--workers is for Ray; add --ray, or start {NAME} work several times")
    run = Folder(args.run)
    plan = Plan.read(run)
    part, parts = args.shard or (0, 1)
    mine = range(part, len(plan.shards), parts)
    todo = [number for number in Status.of(run, plan).undone() if number in mine]
    if todo:
        with process.signals() as (stop, received), _progress(plan, mine, todo) as done:
            (_with_ray if args.ray else _alone)(args, run, plan, todo, stop, done)
        if received:
            _say("interrupted; the same command goes on")
            return 128 + received[0]
    failed = sum(1 for _ in failures(run, Status.of(run, plan).failed.intersection(mine)))
    if failed:
        _say(f"pictures that failed: {failed:,}; see: {NAME} status --run {args.run}")
    return 1 if failed else 0


def _alone(
    args: argparse.Namespace,
    run: Folder,
    plan: Plan,
    todo: list[int],
    stop: Event,
    done: Callable[[int], None],
) -> None:
    from lpnsr.runtime.bulk.worker import Stopped, Worker

    with process.quiet_decoders():
        worker = Worker(run.url, _model(args), args.threads, opening.device(args.gpu), stop)
        _say(f"runs with {worker.choice}")
        for number in todo:
            try:
                worker.work(number)
            except Stopped:
                return
            done(number)


def _with_ray(
    args: argparse.Namespace,
    run: Folder,
    plan: Plan,
    todo: list[int],
    stop: Event,
    done: Callable[[int], None],
) -> None:
    from lpnsr.runtime.bulk import cluster

    if args.gpu is not None:
        raise JobError("--gpu does not go with --ray, which gives every worker a GPU of its own")
    with cluster.connected(args.ray):
        workers = cluster.Cluster(
            run.url, plan.options.backend, _model(args), args.threads, args.workers, _say
        )
        _say(f"runs with {workers.start()}")
        for number, _ in workers.work(todo, stop):
            done(number)


def _model(args: argparse.Namespace) -> Path | None:
    return args.model and args.model.absolute()


@contextmanager
def _progress(plan: Plan, mine: range, todo: list[int]) -> Iterator[Callable[[int], None]]:
    """A bar of output pixels, on a terminal only; gives what is called with each shard's end."""
    pixels = [shard.pixels for shard in plan.shards]
    whole = sum(pixels[number] for number in mine)
    left = sum(pixels[number] for number in todo)
    with tqdm(
        total=whole, initial=whole - left, unit="px", unit_scale=True, disable=None
    ) as pictures:
        yield lambda number: pictures.update(pixels[number]) and None


def _status(args: argparse.Namespace) -> int:
    from lpnsr.runtime.bulk.status import failures

    run, status = _known(args)
    lines = list(islice(failures(run, status.failed), _SHOWN + 1))
    _tell(status.describe())
    for line in lines[:_SHOWN]:
        _tell(f"failed     {line['input']}: {line['error']}")
    if len(lines) > _SHOWN:
        _tell(f"           and more; all are in: {NAME} report --run {args.run} -o report.jsonl")
    return 0


def _retry(args: argparse.Namespace) -> int:
    from lpnsr.runtime.bulk.status import retry

    run, status = _known(args)
    count = retry(run, status)
    _tell(
        f"pictures to be tried again: {count:,}, in {len(status.failed):,} shards; go on with: "
        f"{NAME} work --run {args.run}"
    )
    return 0


def _report(args: argparse.Namespace) -> int:
    from lpnsr.runtime.bulk.status import write_report

    count = write_report(*_known(args), args.output)
    _tell(f"{args.output}: {count:,} pictures")
    return 0


def _known(args: argparse.Namespace) -> tuple[Folder, Status]:
    """The run and its status."""
    from lpnsr.runtime.bulk.plan import Plan
    from lpnsr.runtime.bulk.status import Status
    from lpnsr.runtime.bulk.storage import Folder

    run = Folder(args.run)
    return run, Status.of(run, Plan.read(run))


def _tell(text: str) -> None:
    tqdm.write(text, file=sys.stdout)


def _say(message: str) -> None:
    tqdm.write(f"{NAME}: {' '.join(message.split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
