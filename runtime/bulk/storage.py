"""Folders on a local disk or in a store that fsspec knows; whatever is written appears whole."""

from __future__ import annotations

import errno
import os
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from lpnsr.runtime.pictures.formats import replacing

_OBJECTS = {"abfs", "abfss", "az", "gcs", "gs", "memory", "oss", "s3", "s3a"}
"""Protocols of stores in which an object appears whole, when all of it has arrived."""

_THREADS = 8
"""Transfers at the same time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class StorageError(OSError):
    """A store does not do what is asked of it."""


@dataclass(frozen=True)
class Entry:
    """A file or folder in a folder.

    Attributes:
        name: without the folder's.
        bytes: of a file; None for a folder.
    """

    name: str
    bytes: int | None


class Folder:
    """A folder, whose files have names with slashes.

    Args:
        url: a local path, or a URL such as s3://bucket/pictures.

    Attributes:
        url: the same, absolute.
        path: where it is on the local disk; None in a store.

    Raises:
        StorageError: the store is unknown, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        with _explained(url):
            # A listing is used once; keeping it would take memory for every file.
            self._fs, root = url_to_fs(url, use_listings_cache=False)
        self._root = root.rstrip("/")
        self.path = Path(root) if isinstance(self._fs, LocalFileSystem) else None
        self.url = str(self.path or self._fs.unstrip_protocol(self._root))

    def holds(self, other: Folder) -> bool:
        """Whether another folder is this one, or lies in it."""
        return f"{other.url}/".startswith(f"{self.url}/")

    def entries(self, place: str = "") -> list[Entry]:
        """What is in a folder in here, by name; symbolic links are left out.

        Raises:
            FileNotFoundError, PermissionError: the folder is missing or closed.
            StorageError: the store fails.
        """
        with _explained(self._at(place)):
            found = self._fs.ls(self._at(place), detail=True)
        entries = []
        for info in found:
            name = info["name"].rstrip("/").rsplit("/", 1)[-1]
            inside = info["name"].rstrip("/") != self._at(place)  # S3 has such objects
            if inside and not info.get("islink") and info["type"] in ("file", "directory"):
                entries.append(Entry(name, info["size"] if info["type"] == "file" else None))
        return sorted(entries, key=lambda entry: entry.name)

    def names(self, place: str) -> list[str]:
        """Names of the files in a folder in here, which may be missing."""
        try:
            return [entry.name for entry in self.entries(place) if entry.bytes is not None]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: it is missing.
            StorageError: the store fails.
        """
        with _explained(self._at(name)):
            return self._fs.cat_file(self._at(name))

    def write(self, name: str, content: bytes) -> None:
        """Write a small file, or replace it."""
        if self.path:
            with replacing(self.path / name) as stream:
                stream.write(content)
            return
        with _explained(self._at(name)), self._written(name) as place:
            self._fs.pipe_file(place, content)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with _explained(self._at(name)), suppress(FileNotFoundError):
            self._fs.rm_file(self._at(name))

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file of the store to the local disk."""
        with _explained(self._at(name)):
            self._fs.get_file(self._at(name), str(target))

    def put(self, source: Path, name: str) -> None:
        """Move a local file in here, in the place of a file that may be there.

        Args:
            source: the file; for a local folder, on the same disk.
            name: what it is called in here.
        """
        if self.path:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            source.replace(target)
            return
        with _explained(self._at(name)), self._written(name) as place:
            self._fs.put_file(str(source), place)
        source.unlink()

    @contextmanager
    def _written(self, name: str) -> Iterator[str]:
        """Where to write so that the file appears whole."""
        protocol = self._fs.protocol
        names = {protocol} if isinstance(protocol, str) else set(protocol)
        target = self._at(name)
        if names & _OBJECTS:
            yield target
            return
        folder = target.rsplit("/", 1)[0]
        self._fs.makedirs(folder, exist_ok=True)
        partial = f"{folder}/.{secrets.token_hex(8)}.lpnsr-partial"
        yield partial
        self._fs.mv(partial, target)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turns what libraries of stores raise into one kind of error."""
    try:
        yield
    except Exception as error:  # each has its own
        kinds = (FileNotFoundError, PermissionError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), StorageError)
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        if kind is FileNotFoundError:
            reason = os.strerror(errno.ENOENT)  # stores say no more than the name
        explained = kind(f"{place}: {reason or type(error).__name__}")
        explained.errno = getattr(error, "errno", None)
        raise explained from error


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int = _THREADS
) -> Iterator[Result]:
    """Results of a function for items in their order, of which some are worked on ahead of time."""
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
