"""`lpnsr-export`: preset and weights in, bundle out; or a bundle in, and engines for it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path

from tqdm import tqdm

from lpnsr.export.check.sentences import sentence
from lpnsr.export.engines import command
from lpnsr.export.triton import repository
from lpnsr.models.roles import NOISE_KINDS, PRECISIONS, ROLES, STARTS, SUMMARIES
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.command.arguments import natural, positive
from lpnsr.runtime.home import bundle_folder
from lpnsr.runtime.manifest import TOPOLOGIES
from lpnsr.runtime.tiles.sizes import parse_tile

EXTRA = "pip install 'lpnsr[cpu,export]'"

_EPILOG = "\n".join(
    (
        "presets:",
        *(f"  {name:<12} {text}" for name, text in SUMMARIES.items()),
        "",
        "exit codes:",
        "  0    the bundle is written, or sound",
        "  2    bad input, or what was computed is not what PyTorch computes; nothing is written",
        "  130  interrupted",
    )
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0, 2 for bad input, 130 when interrupted."""
    args = _parse(argv)
    # A request to stop unwinds like Ctrl-C, so that nothing half-written is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.bundle:
        return command.main(args)
    try:
        import onnx_ir  # noqa: F401
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        print(f"lpnsr-export: {error.name} is not installed; run: {EXTRA}", file=sys.stderr)
        return 2

    from lpnsr.export.check.ranges import RangeError
    from lpnsr.export.check.run_onnx import EngineMissingError
    from lpnsr.export.check.verify import ParityError
    from lpnsr.models.checkpoints import CheckpointError
    from lpnsr.models.download import DownloadError
    from lpnsr.models.presets import PresetError
    from lpnsr.runtime.backends.base import BackendError
    from lpnsr.runtime.manifest import BundleError

    try:
        _verify(args) if args.verify else _export(args)
    except KeyboardInterrupt:
        print("lpnsr-export: interrupted, no bundle was written", file=sys.stderr)
        return 130
    except (
        BackendError,
        BundleError,
        CheckpointError,
        DownloadError,
        EngineMissingError,
        ParityError,
        PresetError,
        MemoryError,
        RangeError,
        OSError,
    ) as error:
        if args.debug:
            raise
        print(f"lpnsr-export: {error}", file=sys.stderr)
        return 2
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if not (args.output or args.bundle or args.verify):
        if not args.download:
            parser.error("one of -o/--output, --bundle, --verify and --download is required")
        args.output = bundle_folder(args.preset)
    if args.verify and args.triton:
        parser.error("argument --triton: not allowed with --verify; use --bundle")
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lpnsr-export",
        description="Compile a model to a bundle: one static ONNX graph of the whole chain, "
        "verified against eager PyTorch.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_target(parser)
    _add_weights(parser.add_argument_group("model and weights"))
    _add_variant(parser.add_argument_group("variants of the chain"))
    _add_graphs(parser.add_argument_group("graphs"))
    add_downloads(parser)
    command.add_arguments(parser)
    add = parser.add_argument_group("messages").add_argument
    add("--debug", action="store_true", help="show tracebacks")
    add("--version", action="version", version=f"lpnsr-export {version('lpnsr')}")
    return parser


def _add_target(parser: argparse.ArgumentParser) -> None:
    target = parser.add_mutually_exclusive_group()
    target.add_argument(
        "-o",
        "--output",
        type=Path,
        help="folder of the bundle to make (default, with --download: in the cache, where "
        "`lpnsr-run --model PRESET` finds it)",
    )
    target.add_argument(
        "--bundle",
        type=Path,
        metavar="DIR",
        help="an existing bundle, or its name, for --engine and --triton",
    )
    target.add_argument(
        "--verify",
        type=Path,
        metavar="DIR",
        help="an existing bundle, to be compared with eager PyTorch again, and its engines with "
        "their graphs; takes --weights",
    )
    parser.add_argument(
        "--triton",
        type=Path,
        metavar="DIR",
        help="also put the bundle into a model repository of the Triton Inference Server",
    )
    parser.add_argument("--force", action="store_true", help="replace what exists")


def _add_weights(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--preset", default="lpnsr", help="one of those below (default: %(default)s)")
    add("--weights", type=Path, help="folder with the checkpoints under their official names")
    for role in (role.replace("_", "-") for role in ROLES if role != "pre_upsampler"):
        add(f"--{role}", type=Path, metavar="FILE", help=f"the {role}'s checkpoint")


def _add_variant(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--pre-upsampler",
        type=lambda text: text if text in STARTS else Path(text),
        metavar="|".join((*STARTS, "FILE")),
        help="what the chain starts from: the bicubic picture, or the pre-upsampler's, with its "
        "checkpoint from --weights (swinir) or from FILE",
    )
    add(
        "--steps",
        type=positive,
        metavar="K",
        help="run the last K steps of the chain, from x_K (default: all); dmsr: any number",
    )
    add(
        "--timestep",
        type=natural,
        metavar="T",
        help="dmsr: assume that every picture is degraded to this timestep of the diffusion "
        "model, such as 250, instead of estimating it",
    )
    add(
        "--noise",
        choices=NOISE_KINDS,
        nargs="+",
        default=(),
        help="what the steps add: one kind for all, or one for each step but the last, in order "
        "(default: predicted, or gaussian where the preset has no noise predictor)",
    )


def _add_graphs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--tile",
        type=parse_tile,
        nargs="+",
        default=[(64, 64)],
        metavar="SIZE",
        help="input tile, 64 or 128x64 (height x width); several share their weights file",
    )
    add(
        "--batch",
        type=positive,
        nargs="+",
        default=[1],
        metavar="N",
        help="tiles a graph takes at once; several make a graph each (default: 1)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="fp32",
        help="what the networks compute in; fp16 and bf16 keep norms, softmax and the state in "
        "fp32, mixed takes fp16 where its range suffices, else bf16 (default: %(default)s)",
    )
    add(
        "--emulate-bf16",
        action="store_true",
        help="measure a float32 graph in bfloat16 on a processor that has none: rounded, not timed",
    )
    add(
        "--topology",
        choices=TOPOLOGIES,
        default="unrolled",
        help="one graph of the whole chain, or one for each network, between which the runtime "
        "updates the state (default: %(default)s)",
    )


def add_downloads(parser: argparse.ArgumentParser) -> None:
    """Add the options for downloads, which `lpnsr.export.obtaining.obtain` reads."""
    group = parser.add_argument_group("downloads")
    group.add_argument(
        "--download",
        action="store_true",
        help="fetch checkpoints that are not in --weights, once, into the cache ($LPNSR_HOME)",
    )
    group.add_argument(
        "--accept-licences",
        action="store_true",
        help="accept the printed terms of what is downloaded without being asked",
    )
    group.add_argument(
        "--offline",
        action="store_true",
        help="with --download: take what is in the cache and connect to nothing",
    )


def _verify(args: argparse.Namespace) -> None:
    from lpnsr.export.check.parity import verify_bundle
    from lpnsr.export.obtaining import obtain
    from lpnsr.models.presets import get_preset
    from lpnsr.models.variants import vary

    given = {role: getattr(args, role) for role in ROLES}
    if args.pre_upsampler in STARTS:
        del given["pre_upsampler"]
    bundle = Bundle.open(args.verify)
    preset = vary(get_preset(bundle.manifest.preset), **bundle.manifest.variant)
    _report(verify_bundle(bundle, None, obtain(preset, args, given)))
    command.verify(bundle)


def _export(args: argparse.Namespace) -> None:
    from lpnsr.export.obtaining import obtain
    from lpnsr.export.pack import check_target, pack, stages
    from lpnsr.models.presets import get_preset
    from lpnsr.models.variants import vary
    from lpnsr.models.weights import load_chain
    from lpnsr.runtime.manifest import BundleError

    wanted = command.check(args)
    given = {role: getattr(args, role) for role in ROLES}
    start = given.pop("pre_upsampler") if args.pre_upsampler in STARTS else None
    preset = vary(get_preset(args.preset), args.steps, args.noise, start, args.timestep)
    for height, width in args.tile:
        if height % preset.multiple or width % preset.multiple:
            raise BundleError(
                f"tile {height}x{width} does not fit {preset.name}: both sides must be "
                f"multiples of {preset.multiple}"
            )
    check_target(args.output, args.force)
    if args.triton:
        repository.check(args.triton, preset.name, args.force)
    files = obtain(preset, args, given)

    shapes = list(dict.fromkeys(product(args.batch, args.tile)))
    names = ["load weights", *stages(preset, shapes)]
    layout = "{l_bar}{bar}| {n}/{total}"
    with tqdm(total=len(names), unit="stage", bar_format=layout, disable=None) as bar:

        def progress(stage: str) -> None:
            bar.n = names.index(stage)
            bar.set_description(stage)

        progress("load weights")
        chain = load_chain(preset, files)
        bundle = pack(
            chain,
            preset,
            shapes,
            args.output,
            precision=args.precision,
            topology=args.topology,
            emulates_bf16=args.emulate_bf16,
            force=args.force,
            progress=progress,
        )
        bar.n = len(names)
        bar.set_description("done")
    _report(bundle)
    if wanted:
        bundle = command.build(bundle, wanted)
    if args.triton:
        print(repository.write(bundle, args.triton, args.force))


def _report(bundle: Bundle) -> None:
    """Print the bundle's size and what was measured."""
    size = sum(file.stat().st_size for file in bundle.path.iterdir())
    print(f"{bundle.path}: {size / 1e6:.1f} MB")
    for graph in bundle.manifest.graphs:
        name = graph.file or f"stages for {graph.tile[0]}x{graph.tile[1]}, batch {graph.batch}"
        narrow = bool(graph.stage_parity)
        for precision, parity in graph.parity.items():
            fine = narrow or precision in graph.precisions
            used = "" if fine else " (taken only if asked for, as it is not accurate)"
            print(f"  {name} in {precision}: {sentence(parity)}{used}")
        for stage, parity in graph.stage_parity.items():
            print(f"    {stage} in {bundle.manifest.precision[stage]}: {sentence(parity)}")
    if not narrow and not graph.stages and "bf16" not in graph.parity:
        print(
            "  bf16: not measured; needs OpenVINO and such a processor, or --emulate-bf16, and a "
            "model that sorts nothing"
        )
