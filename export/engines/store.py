"""Engines go into a bundle.

Each is built in a process of its own: it can be interrupted at any time, its memory is given back,
and the bundle changes only when the engine is whole.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path

import psutil

from lpnsr.export.engines.building import Order, Progress, build
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.engine_files import EngineError, find, import_builder, read, written
from lpnsr.runtime.bundle import Bundle, sha256
from lpnsr.runtime.manifest import MANIFEST, Engine, Graph

LARGEST, CODE = 1.5, 2**28
"""Most bytes of an engine for each byte of graph and weights, and for the code for each GPU. Some
versions of TensorRT fold constants to gigabytes."""


def add_engine(bundle: Bundle, graph: str, wanted: Order, progress: Progress) -> tuple[Bundle, int]:
    """Build the engine of one of a bundle's graphs and add it, unless it is there already.

    Args:
        bundle: where the graph is and the engine goes.
        graph: file name of the graph.
        wanted: what `order` returned.
        progress: told how far the build is.

    Returns:
        The bundle with the engine, and the most memory that the build took, in bytes; 0 if the
        engine was there.

    Raises:
        BackendError: the builder fails, or the engine is suspiciously large.
        MemoryError: memory does not suffice.
        OSError: the bundle cannot be written.
    """
    version = import_builder(wanted.builder).__version__
    if _is_there(bundle, graph, wanted, version):
        return bundle, 0
    gpus = "-".join(wanted.gpus)
    file = f"{graph.removesuffix('.onnx')}.{wanted.builder}-{version}.{gpus}.engine"
    sources = bundle.sources(graph)
    with written(bundle.path / file) as partial:
        peak = _build_apart(bundle.path / graph, partial, wanted, progress)
        check_size(partial, [bundle.path / name for name in sources], len(wanted.gpus))
        engine = Engine(file, sha256(partial), graph, sources, wanted.builder, version, wanted.gpus)
    replaced = [e for e in bundle.manifest.engines if _replaces(engine, e)]
    kept = tuple(e for e in bundle.manifest.engines if e not in replaced)
    changed = write_engines(bundle, (*kept, engine))
    for old in replaced:
        if old.file != file:
            (bundle.path / old.file).unlink(missing_ok=True)
    return changed, peak


def write_engines(bundle: Bundle, engines: Sequence[Engine]) -> Bundle:
    """Let a bundle's manifest list these engines."""
    manifest = dataclasses.replace(bundle.manifest, engines=tuple(engines))
    with written(bundle.path / MANIFEST) as partial:
        partial.write_text(manifest.to_json(), encoding="utf-8")
    return Bundle(bundle.path, manifest)


def drop_engines(bundle: Bundle, graph: Graph, builder: str) -> Bundle:
    """Take the engines of a graph out of a bundle."""
    dropped = [
        engine
        for engine in bundle.manifest.engines
        if engine.builder == builder and engine.graph in graph.files
    ]
    kept = [engine for engine in bundle.manifest.engines if engine not in dropped]
    changed = write_engines(bundle, kept)
    for engine in dropped:
        (bundle.path / engine.file).unlink(missing_ok=True)
    return changed


def _is_there(bundle: Bundle, graph: str, wanted: Order, version: str) -> bool:
    with suppress(EngineError):
        for gpu in wanted.gpus:
            read(bundle, find(bundle, graph, wanted.builder, version, gpu))
        return True
    return False


def _replaces(new: Engine, old: Engine) -> bool:
    same = (new.graph, new.builder) == (old.graph, old.builder)
    return same and set(old.gpus) <= set(new.gpus)


def check_size(engine: Path, sources: Sequence[Path], gpus: int) -> None:
    """Refuse an engine that is much larger than what it was built from.

    Raises:
        BackendError: it is.
    """
    size, expected = engine.stat().st_size, sum(file.stat().st_size for file in sources)
    if size > LARGEST * expected + CODE * gpus:
        raise BackendError(
            f"the engine has {size / 1e6:.0f} MB, its graph and weights only "
            f"{expected / 1e6:.0f} MB: this version of the builder has unfolded its constants; "
            "try another version"
        )


def _build_apart(onnx: Path, engine: Path, wanted: Order, progress: Progress) -> int:
    """`build` in a process of its own; returns the most memory that it took, in bytes."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, onnx, engine, wanted), daemon=True)
    try:
        with _uninterrupted():
            process.start()
        theirs.close()
        while True:
            message = ours.recv()
            if isinstance(message, int):
                return message
            if isinstance(message, Exception):
                raise message
            progress(*message)
    except EOFError:
        process.join()
        raise BackendError(
            f"{wanted.builder} was ended while it built (exit code {process.exitcode}); "
            "is there enough memory?"
        ) from None
    finally:
        if process.pid:
            process.kill()
            process.join()


def _work(connection: Connection, onnx: Path, engine: Path, wanted: Order) -> None:
    try:
        plan = build(onnx, wanted, lambda *news: connection.send(news))
        engine.write_bytes(plan)
        connection.send(_peak_memory())
    except (BackendError, MemoryError, OSError) as error:
        connection.send(error)
    except KeyboardInterrupt:  # where signals cannot be blocked; the parent says so
        os._exit(130)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Put Ctrl-C off until the end of the block; processes started in it never see it.

    One that is started half, or interrupted while it starts, prints a traceback of its own.
    """
    if threading.current_thread() is not threading.main_thread():  # others see no Ctrl-C
        yield
        return
    caught: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    if posix := hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # it unblocks signals when it starts
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if posix:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
    for number in caught:
        signal.raise_signal(number)


def _peak_memory() -> int:
    """Bytes; what `getrusage` says would start from the parent's."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    info = psutil.Process().memory_info()
    return getattr(info, "peak_wset", info.rss)
