"""Builds engines of ONNX graphs with TensorRT or TensorRT-RTX.

Polygraphy's loaders read the graph, configure the builder and build. Here is what they lack: orders
checked before the work, compute capabilities of GPUs that are elsewhere, one number for the
progress of a build, errors of one line. Timings are kept here too: polygraphy adds them to those of
any other GPU that are in the file, and writes it in place.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from logging.handlers import BufferingHandler
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from lpnsr.kernels import cuda
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.engine_files import failure, import_builder, written

Progress = Callable[[str, float], None]
"""Called with what is being done and how much of the engine is done, 0 to 1."""


@dataclass(frozen=True)
class Order:
    """What a build takes.

    Attributes:
        builder: one of `lpnsr.runtime.backends.engine_files.BUILDERS`.
        gpus: what the engine is for, such as "sm_89".
        level: effort of the optimiser, 0 to 5; by default the builder's own.
        timing_cache: file to take timings of earlier builds from and to add these to.
    """

    builder: str
    gpus: tuple[str, ...]
    level: int | None = None
    timing_cache: Path | None = None


def order(
    builder: str,
    gpus: Sequence[str] = (),
    level: int | None = None,
    timing_cache: Path | None = None,
) -> Order:
    """What a build takes, checked.

    Args:
        builder: one of `lpnsr.runtime.backends.engine_files.BUILDERS`.
        gpus: what the engine is for; by default the GPU that is there.
        level: as in `Order`.
        timing_cache: as in `Order`.

    Raises:
        BackendError: the builder or polygraphy is not installed, the builder does not build for
            such a GPU here, or there is no folder for the timing cache.
    """
    trt = import_builder(builder)
    if find_spec("polygraphy") is None:
        raise BackendError('polygraphy is missing; install it with: pip install "lpnsr[engines]"')
    here = present()
    chosen = tuple(dict.fromkeys(gpus or filter(None, [here])))
    known = supported(trt)
    if known is None and (not here or chosen != (here,)):
        raise BackendError(
            f"{builder} builds only for the GPU that is there, {here or 'and there is none'}; "
            "use --engine tensorrt-rtx, which builds for others too"
        )
    if not chosen:
        raise BackendError(
            f"there is no NVIDIA GPU here; say which to build for, --gpu {' '.join(known or ())}"
        )
    for gpu in chosen:
        if known is not None and gpu not in known:
            raise BackendError(
                f"{builder} {trt.__version__} builds no engine for {gpu}, only for "
                f"{', '.join(known)}; use --engine tensorrt on a machine with this GPU"
            )
    if known is not None and timing_cache:
        raise BackendError(f"{builder} times nothing when it builds; leave out --timing-cache")
    if timing_cache and not timing_cache.absolute().parent.is_dir():
        raise BackendError(f"there is no folder for {timing_cache}; make it first")
    return Order(builder, chosen, level, timing_cache)


def present() -> str | None:
    """The GPU of this machine, such as "sm_89"."""
    try:
        return f"sm_{cuda.device().arch}"
    except cuda.KernelError:
        return None


def supported(trt: ModuleType) -> list[str] | None:
    """The GPUs that a builder can build for where they are not; None if it builds for none."""
    if not hasattr(trt, "ComputeCapability"):
        return None
    return [f"sm_{name[2:]}" for name in trt.ComputeCapability.__members__ if name[2:].isdigit()]


def build(onnx: Path, wanted: Order, progress: Progress) -> Any:
    """Build an engine of the graph in a file.

    Args:
        onnx: the graph; its weights are found beside it.
        wanted: what `order` returned.
        progress: told how far the build is.

    Returns:
        The serialised engine, a buffer of bytes.

    Raises:
        BackendError: the builder cannot read or build the graph.
        MemoryError: memory does not suffice.
    """
    trt, loaders = import_builder(wanted.builder), _loaders(wanted.builder)
    monitor = _monitor(trt, progress)  # to be kept as long as the builder uses it
    # A version without this flag knows no other networks.
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    # What the parser's errors amount to is logged last.
    with _one_line(f"{wanted.builder} cannot read {onnx}", last=True):
        builder, network, _ = parsed = loaders.network_from_onnx_path(
            str(onnx), strongly_typed=typed
        )
    failing = _one_line(f"{wanted.builder} cannot build {onnx.name}")
    with failing, _known_timings(wanted.timing_cache) as known:
        config = loaders.create_config(
            builder,
            network,
            # Float32 means float32, not 10 bits of it: the search for codes decides near-ties.
            tf32=False,
            profiles=[],  # shapes are static
            profiling_verbosity=trt.ProfilingVerbosity.LAYER_NAMES_ONLY,
            builder_optimization_level=wanted.level,
            progress_monitor=monitor,
            load_timing_cache=known,
        )
        if supported(trt) is not None:
            _choose_gpus(trt, config, wanted.gpus)
        plan = loaders.engine_bytes_from_network(parsed, config)
    if wanted.timing_cache:
        with written(wanted.timing_cache) as partial:
            partial.write_bytes(config.get_timing_cache().serialize())
    return plan


@contextmanager
def _known_timings(file: Path | None) -> Iterator[BinaryIO | None]:
    """Open the timings of earlier builds; polygraphy leaves a lock beside what it opens itself."""
    if file and file.is_file():
        with file.open("rb") as stream:
            yield stream
    else:
        yield None


def _loaders(builder: str) -> ModuleType:
    """Polygraphy's loaders for a builder, the only one in the life of a process; it logs silently.

    Raises:
        RuntimeError: in this process polygraphy was loaded for another builder.
    """
    is_rtx = builder == "tensorrt-rtx"
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(is_rtx))
    from polygraphy import config
    from polygraphy.backend import trt
    from polygraphy.logger import G_LOGGER

    if is_rtx != config.USE_TENSORRT_RTX:
        raise RuntimeError(f"polygraphy serves another builder in this process than {builder}")
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.module_severity = G_LOGGER.ERROR
    G_LOGGER.colors = G_LOGGER.letter = False
    return trt


def _choose_gpus(trt: ModuleType, config: Any, gpus: Sequence[str]) -> None:
    """Let the engine be for these GPUs."""
    config.num_compute_capabilities = len(gpus)
    for index, gpu in enumerate(gpus):
        name = f"SM{gpu.removeprefix('sm_')}"
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)


@contextmanager
def _one_line(what: str, last: bool = False) -> Iterator[None]:
    """Make one line of a failure: what failed, and why, by the first or the last error logged."""
    from polygraphy.exception import PolygraphyException

    log, handler = logging.getLogger("Polygraphy"), BufferingHandler(capacity=10**6)
    log.addHandler(handler)
    try:
        yield
    except (PolygraphyException, RuntimeError, TypeError) as error:  # the two from TensorRT
        logged = [r.getMessage() for r in handler.buffer if r.levelno == logging.ERROR]
        errors = logged or [str(error)]
        raise failure(what, errors[::-1] if last else errors) from error
    finally:
        log.removeHandler(handler)


def _monitor(trt: ModuleType, progress: Progress) -> Any:
    """Turns the builder's nested phases into one number."""
    monitor: Any = trt.IProgressMonitor

    class Monitor(monitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._phases: dict[str, list[int]] = {}  # steps done and in all, outermost first
            self._done = 0.0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._phases[phase] = [0, steps]
            self._report(phase)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._phases:
                self._phases[phase][0] = step + 1
            self._report(phase)
            return True

        def phase_finish(self, phase: str) -> None:
            self._phases.pop(phase, None)
            if not self._phases:
                progress(phase, 1.0)

        def _report(self, phase: str) -> None:
            share, done = 1.0, 0.0
            for complete, steps in self._phases.values():
                share /= max(steps, 1)
                done += share * complete
            self._done = max(self._done, min(done, 1.0))
            progress(phase, self._done)

    return Monitor()
