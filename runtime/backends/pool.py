"""Loaded graphs, shared by all threads and kept within a memory limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from lpnsr.runtime.backends.session import Session
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import Graph

_COPIES = 4
"""Bytes of a session per byte of its files: engines keep repacked copies of the weights."""

_PIXEL = 2**15
"""Bytes of a session per input pixel of a batch."""


def estimate(bundle: Bundle, graph: Graph) -> int:
    """Estimate the bytes that a graph takes once it is loaded and has run.

    The estimate is four times the size of its files plus 32 KiB per input pixel of a batch. On a
    CPU, ONNX Runtime and OpenVINO take between half and a little over twice as much.
    """
    names = {name for file in graph.files for name in bundle.sources(file)}
    files = sum((bundle.path / name).stat().st_size for name in names)
    return _COPIES * files + _PIXEL * graph.pixels


@dataclass
class _Entry:
    """A graph that is loaded or being loaded.

    Attributes:
        size: bytes that it takes, estimated.
        users: how many threads and open generators use it.
        lock: held while it is loaded.
        session: None until it is loaded.
    """

    size: int
    users: int = 0
    lock: Lock = field(default_factory=Lock)
    session: Session | None = None


class SessionPool:
    """Loads each graph once and keeps it as long as the limit allows.

    The least recently used graph is dropped first. Graphs in use are never dropped, even if they
    alone exceed the limit.

    Args:
        load: loads a graph.
        measure: estimates the bytes that a graph takes.
        limit: most bytes that all graphs may take together.
    """

    def __init__(
        self, load: Callable[[Graph], Session], measure: Callable[[Graph], int], limit: int
    ) -> None:
        self._load, self._measure, self._limit = load, measure, limit
        self._entries: dict[tuple[str, ...], _Entry] = {}  # the most recently used last
        self._lock = Lock()
        self._closed = False

    @contextmanager
    def use(self, graph: Graph) -> Iterator[Session]:
        """Keep a graph loaded while the context is open.

        Raises:
            ValueError: the pool is closed.
            BackendError, MemoryError, BundleError: see `Backend.load`.
        """
        entry = self._enter(graph)
        try:
            with entry.lock:
                if entry.session is None:
                    entry.session = self._loaded(graph)
            yield entry.session
        finally:
            with self._lock:
                entry.users -= 1
                self._trim()

    def _enter(self, graph: Graph) -> _Entry:
        with self._lock:
            if self._closed:
                raise ValueError("the upscaler is closed")
            entry = self._entries.pop(graph.files, None) or _Entry(self._measure(graph))
            self._entries[graph.files] = entry
            entry.users += 1
            self._trim()
            return entry

    def _loaded(self, graph: Graph) -> Session:
        try:
            return self._load(graph)
        except MemoryError:
            self.release()
            return self._load(graph)

    def release(self) -> None:
        """Drop all graphs that are not in use."""
        with self._lock:
            self._trim(0)

    def close(self) -> None:
        """Drop all graphs, as soon as they are no longer in use, and refuse to load any more."""
        with self._lock:
            self._closed = True
            self._trim()

    def _trim(self, limit: int | None = None) -> None:
        """Drop unused graphs, the least recently used first, to keep within the limit."""
        if limit is None:
            limit = 0 if self._closed else self._limit
        total = sum(entry.size for entry in self._entries.values())
        for key, entry in list(self._entries.items()):
            if not entry.users and (total > limit or entry.session is None):
                del self._entries[key]
                total -= entry.size
