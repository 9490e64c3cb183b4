"""The part of `lpnsr-export` for bundles that are there: builds engines, writes for Triton."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from tqdm import tqdm

from lpnsr.export.check.sentences import sentence
from lpnsr.export.engines import building, store
from lpnsr.export.triton import repository
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.engine_files import BUILDERS
from lpnsr.runtime.backends.registry import BACKENDS
from lpnsr.runtime.backends.tensorrt import TensorRt
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import BundleError, Graph


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for engines."""
    group = parser.add_argument_group("engines for NVIDIA GPUs")
    group.add_argument(
        "--engine",
        choices=BUILDERS,
        help="build engines of all graphs, with polygraphy (the extra engines) and this builder "
        "(the extra of its name)",
    )
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
    """Do what is asked for with a bundle that is there; returns the exit code of `cli.main`."""
    try:
        wanted = check(args)
        if not (wanted or args.triton):
            raise BundleError(
                f"nothing to do with {args.bundle}; add --engine tensorrt-rtx or --triton FOLDER"
            )
        bundle = Bundle.open(args.bundle)
        if args.triton:
            repository.check(args.triton, bundle.manifest.preset, args.force)
        if wanted:
            bundle = build(bundle, wanted)
        if args.triton:
            print(repository.write(bundle, args.triton, args.force))
    except KeyboardInterrupt:
        print("lpnsr-export: interrupted; engines that were done are kept", file=sys.stderr)
        return 130
    except (RuntimeError, BundleError, MemoryError, OSError) as error:
        if args.debug:
            raise
        print(f"lpnsr-export: {error}", file=sys.stderr)
        return 2
    return 0


def check(args: argparse.Namespace) -> building.Order | None:
    """What the options ask for; None if for no engine.

    Raises:
        BackendError: as `building.order`.
    """
    if not args.engine:
        return None
    return building.order(args.engine, args.gpu, args.optimization_level, args.timing_cache)


def build(bundle: Bundle, wanted: building.Order) -> Bundle:
    """Build engines of all graphs, with a progress bar, and say what came out.

    Where the GPU is one that they are built for, they are compared with their graphs.

    Raises:
        BackendError: the builder fails, or an engine is suspiciously large.
        BundleError: the bundle cannot be changed.
        ParityError: an engine does not compute what its graph computes; it is taken out again.
        MemoryError: memory does not suffice.
    """
    for graph in bundle.manifest.graphs:
        for file in graph.files:
            bundle = _build(bundle, file, wanted)
        if building.present() in wanted.gpus:
            _compare_new(bundle, graph, wanted.builder)
        else:
            print("    not compared with ONNX Runtime: the GPU is not here")
    return bundle


def _build(bundle: Bundle, file: str, wanted: building.Order) -> Bundle:
    layout = "{l_bar}{bar}| {elapsed}{postfix}"
    with tqdm(total=1.0, bar_format=layout, desc=file, disable=None) as bar:

        def show(phase: str, done: float) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(done - bar.n)

        try:
            bundle, peak = store.add_engine(bundle, file, wanted, show)
        except PermissionError as error:
            raise BundleError(
                f"{bundle.path} cannot be changed ({error.strerror}); copy it first"
            ) from error
    if not peak:
        print(f"  {file} has its {wanted.builder} engine already")
        return bundle
    engine = bundle.manifest.engines[-1]
    size = (bundle.path / engine.file).stat().st_size
    print(f"  {engine.file}: {size / 1e6:.1f} MB, built with {peak / 1e9:.2f} GB of memory")
    return bundle


def verify(bundle: Bundle) -> None:
    """Compare a bundle's engines with their graphs, where their GPU is.

    Raises:
        ParityError: an engine does not compute what its graph computes.
        EngineMissingError: ONNX Runtime is not installed.
    """
    for builder in dict.fromkeys(engine.builder for engine in bundle.manifest.engines):
        try:
            BACKENDS[builder].check_bundle(bundle.manifest)
            backend = TensorRt(builder)
            backend.check(bundle, bundle.manifest.graphs)
        except BackendError as error:
            print(f"  engines of {builder} are not compared: {error}")
            continue
        for graph in bundle.manifest.graphs:
            _compare(bundle, graph, backend)


def _compare(bundle: Bundle, graph: Graph, backend: TensorRt) -> None:
    from lpnsr.export.engines.compare import check_engines

    figures = check_engines(bundle, graph, backend)
    print(f"    {backend.describe()} against ONNX Runtime: {sentence(figures)}")


def _compare_new(bundle: Bundle, graph: Graph, builder: str) -> None:
    """Compare engines that were just built; takes them out if they are wrong."""
    try:
        BACKENDS[builder].check_bundle(bundle.manifest)
    except BackendError as error:
        print(f"    not compared: {error}")
        return
    try:
        from lpnsr.export.check.verify import ParityError
    except ImportError as error:
        print(f"    not compared: {error.name} is missing; pip install 'lpnsr[cpu,export]'")
        return
    try:
        _compare(bundle, graph, TensorRt(builder))
    except ParityError:
        store.drop_engines(bundle, graph, builder)
        raise


def _gpu(text: str) -> str:
    match = re.fullmatch(r"(?:sm_)?([0-9]{1,2})\.?([0-9])", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is not a compute capability such as sm_89")
    return f"sm_{match[1]}{match[2]}"
