"""Builds engines of ONNX graphs with TensorRT or TensorRT-RTX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from lpnsr.kernels import cuda
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.engine_files import create_log, import_builder, written

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
        BackendError: the builder is not installed, or does not build for such a GPU here.
    """
    trt = import_builder(builder)
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
            f"there is no NVIDIA GPU here; say which to build for, --gpu {' '.join(known)}"
        )
    for gpu in chosen:
        if known is not None and gpu not in known:
            raise BackendError(
                f"{builder} {trt.__version__} builds no engine for {gpu}, only for "
                f"{', '.join(known)}; use --engine tensorrt on a machine with this GPU"
            )
    if known is not None and timing_cache:
        raise BackendError(f"{builder} times nothing when it builds; leave out --timing-cache")
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
    trt = import_builder(wanted.builder)
    log = create_log(trt)
    try:
        builder = trt.Builder(log)
    except (RuntimeError, TypeError) as error:  # what a constructor that fails raises
        raise log.fail(f"{wanted.builder} cannot start") from error
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        reasons = [parser.get_error(i) for i in range(parser.num_errors)]
        where = "; ".join(f"{reason.desc()} in node {reason.node_name()}" for reason in reasons)
        raise BackendError(f"{wanted.builder} cannot read {onnx}: {where}")
    config = builder.create_builder_config()
    # Float32 means float32, not 10 bits of it: the search for codes hangs on near-ties.
    config.clear_flag(trt.BuilderFlag.TF32)
    if wanted.level is not None:
        config.builder_optimization_level = wanted.level
    if supported(trt) is not None:
        config.num_compute_capabilities = len(wanted.gpus)
        for index, gpu in enumerate(wanted.gpus):
            name = f"SM{gpu.removeprefix('sm_')}"
            config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
    monitor = _monitor(trt, progress)
    config.progress_monitor = monitor
    with _timings(config, wanted.timing_cache):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.fail(f"{wanted.builder} cannot build {onnx.name}")
    return plan


@contextmanager
def _timings(config: Any, file: Path | None) -> Iterator[None]:
    """Let a build know the timings in `file`, and keep its own there."""
    if file is None:
        yield
        return
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    with written(file) as partial:
        partial.write_bytes(config.get_timing_cache().serialize())


def _monitor(trt: ModuleType, progress: Progress) -> Any:
    """Turns the builder's nested phases into one number."""

    class Monitor(trt.IProgressMonitor):
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
