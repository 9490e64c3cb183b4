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
        divided: whether it computes several batches at a time.
        users: how many threads and open generators use it.
        lock: held while it is loaded.
        session: None until it is loaded.
    """

    size: int
    divided: bool
    users: int = 0
    lock: Lock = field(default_factory=Lock)
    session: Session | None = None


class SessionPool:
    """Loads each graph once and keeps it as long as the limit allows.

    The least recently used graph is dropped first. Graphs in use are never dropped, even if they
    alone exceed the limit.

    Args:
        load: loads a graph, to compute one batch at a time or several.
        measure: estimates the bytes that a graph takes.
        limit: most bytes that all graphs may take together.
    """

    def __init__(
        self, load: Callable[[Graph, bool], Session], measure: Callable[[Graph], int], limit: int
    ) -> None:
        self._load, self._measure, self._limit = load, measure, limit
        # By files and whether it is divided; the most recently used last.
        self._entries: dict[tuple[tuple[str, ...], bool], _Entry] = {}
        self._lock = Lock()
        self._closed = False

    @contextmanager
    def use(
        self, graph: Graph, divisible: bool = False, several: bool = False
    ) -> Iterator[Session]:
        """Keep a graph loaded while the context is open.

        Args:
            graph: which one.
            divisible: whether it can also compute several batches at a time. It does so while
                others are in use, too.
            several: whether there are several batches anyway.

        Raises:
            ValueError: the pool is closed.
            BackendError, MemoryError, BundleError: see `Backend.load`.
        """
        entry = self._enter(graph, divisible, several)
        try:
            with entry.lock:
                if entry.session is None:
                    entry.session = self._loaded(graph, entry.divided)
            yield entry.session
        finally:
            with self._lock:
                entry.users -= 1
                self._trim()

    def _enter(self, graph: Graph, divisible: bool, several: bool) -> _Entry:
        with self._lock:
            if self._closed:
                raise ValueError("the upscaler is closed")
            has_company = several or any(entry.users for entry in self._entries.values())
            key = graph.files, divisible and has_company
            entry = self._entries.pop(key, None) or _Entry(self._measure(graph), key[1])
            self._entries[key] = entry
            entry.users += 1
            self._trim()
            return entry

    def _loaded(self, graph: Graph, divided: bool) -> Session:
        try:
            return self._load(graph, divided)
        except MemoryError:
            self.release()
            return self._load(graph, divided)

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
