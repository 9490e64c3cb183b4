"""TensorRT and TensorRT-RTX, which share one Python API, and the engines in a bundle."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import BundleError, Engine

BUILDERS = ("tensorrt", "tensorrt-rtx")
"""Packages that build and run engines, the preferred one first."""


class EngineError(BackendError):
    """A bundle has no engine that can be used here; the message says how to build one."""


def import_builder(name: str) -> ModuleType:
    """The Python package of one of `BUILDERS`.

    Raises:
        BackendError: it is not installed.
    """
    try:
        return importlib.import_module(name.replace("-", "_"))
    except (ImportError, OSError) as error:  # the latter where a shared library is missing
        reason = str(error).splitlines()[0]
        hint = f'pip install "lpnsr[{name}]"'
        raise BackendError(f"{name} is missing ({reason}); install it with: {hint}") from error


def create_log(trt: ModuleType) -> Any:
    """A logger that keeps errors and prints nothing.

    Its method `fail(what)` returns what `failure` makes of the errors since the last call.
    """
    logger: Any = trt.ILogger

    class Log(logger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors.append(message)

        def fail(self, what: str) -> Exception:
            errors, self._errors = self._errors, []
            return failure(what, errors)

    return Log()


def failure(what: str, errors: Sequence[str]) -> BackendError | MemoryError:
    """What to raise where a builder or an engine has failed.

    Args:
        what: has failed.
        errors: that were logged, the decisive one first.

    Returns:
        A `MemoryError` where memory has run out, else a `BackendError`; with one line.
    """
    first = (errors or ["no reason is given"])[0]
    is_memory = re.search(r"out.?of.?memory|bad.?alloc", " ".join(errors), re.IGNORECASE)
    return (MemoryError if is_memory else BackendError)(f"{what}: {first.splitlines()[0]}")


def command(bundle: Bundle, builder: str, *gpus: str) -> str:
    """The command that builds a bundle's engines for these GPUs."""
    return f"lpnsr-export --bundle {bundle.path} --engine {builder} --gpu {' '.join(gpus)}"


def find(bundle: Bundle, graph: str, builder: str, version: str, gpu: str) -> Engine:
    """The engine of an ONNX graph that can be used.

    Args:
        bundle: the bundle.
        graph: file name of the graph.
        builder: one of `BUILDERS`.
        version: of the installed builder.
        gpu: the GPU that is there, such as "sm_89".

    Raises:
        EngineError: there is none, or it is stale or foreign.
    """
    repair = command(bundle, builder, gpu)
    built = [e for e in bundle.manifest.engines if (e.graph, e.builder) == (graph, builder)]
    if not built:
        raise EngineError(f"{bundle.path} has no {builder} engine of {graph}; run: {repair}")
    here = [engine for engine in built if gpu in engine.gpus]
    if not here:
        gpus = ", ".join(name for engine in built for name in engine.gpus)
        raise EngineError(f"the {builder} engine is for {gpus}, the GPU is {gpu}; run: {repair}")
    engine = here[0]
    if engine.version != version:
        raise EngineError(
            f"{engine.file} was built by {builder} {engine.version}, here is {version}; "
            f"run: {repair}"
        )
    if engine.sources != bundle.sources(graph):
        raise EngineError(f"{engine.file} was built from another {graph}; run: {repair}")
    return engine


def read(bundle: Bundle, engine: Engine) -> bytes:
    """The content of an engine's file.

    Raises:
        EngineError: it is missing or damaged.
    """
    try:
        return bundle.check(engine.file, engine.sha256).read_bytes()
    except BundleError as error:
        raise EngineError(
            f"{bundle.path / engine.file} is missing or damaged; "
            f"run: {command(bundle, engine.builder, *engine.gpus)}"
        ) from error


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """A hidden file beside `file` that replaces it at the end if there was no error."""
    partial = file.with_name(f".{file.name}.lpnsr-partial")
    partial.touch()  # what cannot be written is known before the work
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
