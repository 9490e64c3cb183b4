"""Loaded graphs, shared by all threads and kept within a memory limit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock

from lpnsr.runtime.backends.session import Session
from lpnsr.runtime.bundle import Bundle, Graph

_COPIES = 4
"""Bytes of a session for each byte of its files: weights, repacked for the engine and shared by
operations that want them in other orders."""

_PIXEL = 2**15
"""Bytes of a session for each input pixel of a batch."""


def estimate(bundle: Bundle, graph: Graph) -> int:
    """Bytes that a graph takes once it is loaded and has run.

    Four times its files plus 32 KiB for each input pixel of a batch. Engines differ: on a CPU, the
    built-in model and the full-size one were found to take half as much to twice as much.
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

    The least recently used graph goes first. One that is in use never goes: if those in use alone
    exceed the limit, it is exceeded.

    Args:
        load: loads a graph.
        measure: bytes that a graph takes.
        limit: bytes that all may take together.
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
        """The graph, loaded, for as long as the context is open.

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
        """Drop all graphs, those in use once they no longer are, and load no more."""
        with self._lock:
            self._closed = True
            self._trim()

    def _trim(self, limit: int | None = None) -> None:
        """Drop what is not in use, the least recently used first, until the limit is kept."""
        if limit is None:
            limit = 0 if self._closed else self._limit
        total = sum(entry.size for entry in self._entries.values())
        for key, entry in list(self._entries.items()):
            if not entry.users and (total > limit or entry.session is None):
                del self._entries[key]
                total -= entry.size
