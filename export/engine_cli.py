"""The part of `lpnsr-export` that builds engines."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from lpnsr.export import tensorrt
from lpnsr.runtime.backends import BackendError
from lpnsr.runtime.bundle import Bundle, BundleError
from lpnsr.runtime.engines import BUILDERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for engines."""
    group = parser.add_argument_group("engines for NVIDIA GPUs")
    group.add_argument("--engine", choices=BUILDERS, help="build an engine of every graph")
    group.add_argument(
        "--gpu",
        type=_gpu,
        nargs="+",
        default=(),
        metavar="sm_NN",
        help="compute capabilities to build for, such as sm_89; several share an engine "
        "(default: the GPU that is there)",
    )
    group.add_argument(
        "--optimization-level",
        type=int,
        choices=range(6),
        metavar="N",
        help="how hard the builder searches, 0 to 5 (default: its own)",
    )
    group.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="keep the builder's timings here, so that later builds are quicker (tensorrt)",
    )


def main(args: argparse.Namespace) -> int:
    """Add engines to a bundle that is there; returns the exit code, as `cli.main` does."""
    try:
        wanted = check(args)
        if wanted is None:
            raise BundleError(f"nothing to do with {args.bundle}; add --engine tensorrt-rtx")
        bundle = Bundle.open(args.bundle)
        check_topology(bundle.manifest.topology)
        build(bundle, wanted)
    except KeyboardInterrupt:
        print("lpnsr-export: interrupted; engines that were done are kept", file=sys.stderr)
        return 130
    except (BackendError, BundleError, MemoryError, OSError) as error:
        if args.debug:
            raise
        print(f"lpnsr-export: {error}", file=sys.stderr)
        return 2
    return 0


def check(args: argparse.Namespace) -> tensorrt.Order | None:
    """What the options ask for; None if for no engine.

    Raises:
        BackendError: the builder is not installed, or does not build for such a GPU here.
    """
    if not args.engine:
        return None
    return tensorrt.order(args.engine, args.gpu, args.optimization_level, args.timing_cache)


def check_topology(topology: str) -> None:
    """See that a bundle of this topology can have engines.

    Raises:
        BundleError: it cannot.
    """
    if topology != "unrolled":
        raise BundleError("engines are built of unrolled bundles only; use --topology unrolled")


def build(bundle: Bundle, wanted: tensorrt.Order) -> Bundle:
    """Build an engine of each graph, with a progress bar, and say what came out.

    Raises:
        BackendError: the builder fails, or an engine is suspiciously large.
        BundleError: the bundle cannot be changed.
        MemoryError: memory does not suffice.
    """
    for graph in bundle.manifest.graphs:
        layout = "{l_bar}{bar}| {elapsed}"
        with tqdm(total=1.0, bar_format=layout, desc=graph.file, disable=None) as bar:

            def show(phase: str, done: float, bar: tqdm = bar) -> None:
                bar.set_postfix_str(phase, refresh=False)
                bar.update(done - bar.n)

            try:
                bundle, peak = tensorrt.add_engine(bundle, graph.file, wanted, show)
            except PermissionError as error:
                raise BundleError(
                    f"{bundle.path} cannot be changed ({error.strerror}); copy it first"
                ) from error
        engine = bundle.manifest.engines[-1]
        if not peak:
            print(f"  {graph.file} has its {wanted.builder} engine already")
            continue
        size = (bundle.path / engine.file).stat().st_size
        print(f"  {engine.file}: {size / 1e6:.1f} MB, built with {peak / 1e9:.2f} GB of memory")
    return bundle


def _gpu(text: str) -> str:
    match = re.fullmatch(r"(?:sm_)?(\d{1,2})\.?(\d)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a compute capability such as sm_89")
    return f"sm_{match[1]}{match[2]}"
