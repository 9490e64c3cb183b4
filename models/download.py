"""Downloads of checkpoints: resumed, checked, and never half there.

Written on the standard library because the usual clients do not do what checkpoints of half a
gigabyte need: huggingface_hub deletes a part when its process ends and compares sizes alone over
HTTP, pooch and torch.hub start over after a broken connection, and none of them pins the hash of
a file for which none is published.

The environment has its say: `http_proxy`, `https_proxy` and `no_proxy`; `HF_ENDPOINT` for a mirror
of Hugging Face; `LPNSR_MIRROR` for an address under which all files are, which is tried first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from tqdm import tqdm

from lpnsr.models.sources import HubFile, Source

PINS = "hashes.json"
"""Beside the files: the SHA-256 that each had first, where none is published."""

_CHUNK, _MARGIN = 1 << 20, 1 << 26
_TIMEOUT, _TRIES, _WAIT = 30.0, 5, 1.0
_MOVE = "set LPNSR_HOME to a folder elsewhere"


class DownloadError(RuntimeError):
    """A file cannot be had, or is not what it should be."""


class _BrokenError(DownloadError):
    """The connection broke; another try may go on from there."""


def cached(name: str, source: Source, folder: Path) -> Path | None:
    """A file that is there: in `folder`, or in the cache of Hugging Face's own client.

    Raises:
        DownloadError: its SHA-256 is not the published one, or not that of the first download.
    """
    places = [folder / name]
    places += [_in_hub_cache(file) for file in source.addresses if isinstance(file, HubFile)]
    for file in places:
        if os.path.isfile(file):  # unlike Path.is_file, also where one may not look
            expected, found = source.sha256 or _pins(folder).get(name), _sha256(file)
            if expected and found != expected:
                raise DownloadError(_differs(file, found, expected, source, folder))
            if not expected:
                with suppress(OSError):  # a cache that cannot be written to cannot be pinned
                    _pin(folder, name, found)
            return file
    return None


def fetch(name: str, source: Source, folder: Path) -> Path:
    """Download a file to `folder`, unless it is there; a broken download goes on where it was.

    Args:
        name: of the file, with folders inside `folder`, if any.
        source: where it is.
        folder: made if it is missing. Only one process at a time downloads to it.

    Raises:
        DownloadError: no address gives the file, it is not what it should be, or it cannot be
            written; in one line, with what to do.
    """
    part = folder / f".{name.replace('/', '.')}.part"
    try:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            return cached(name, source, folder) or _from_any(name, source, folder, part)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _discard(part)
        reason = error.strerror or error
        raise DownloadError(f"{name} cannot be written to {folder} ({reason}); {_MOVE}") from error


def _from_any(name: str, source: Source, folder: Path, part: Path) -> Path:
    """From the first address that has the file."""
    failures = []
    for address in _addresses(name, source):
        try:
            found = _complete(address, part, source)
        except DownloadError as error:
            failures.append(f"{urlsplit(address).netloc}: {error}")
            continue
        if not source.sha256:
            _pin(folder, name, found)
        part.replace(folder / name)
        _discard(part)
        return folder / name
    raise DownloadError(
        f"{name} cannot be downloaded: {'; '.join(failures)}; try again later, which goes on from "
        f"there, or put it into {folder} yourself, from {source.page}"
    )


def _addresses(name: str, source: Source) -> Iterator[str]:
    if mirror := os.environ.get("LPNSR_MIRROR"):
        yield f"{mirror.rstrip('/')}/{quote(name)}"
    hub = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    for address in source.addresses:
        if isinstance(address, HubFile):
            path = f"{address.repository}/resolve/{address.revision}/{quote(address.file)}"
            yield f"{hub}/{path}"
        else:
            yield address


def _complete(address: str, part: Path, source: Source) -> str:
    """Transfer the whole file to `part`, in several tries if the connection breaks.

    Returns:
        its SHA-256.

    Raises:
        DownloadError: the address does not give the file.
        OSError: it cannot be written.
    """
    for number in range(_TRIES):
        try:
            offered = _transfer(address, part, source)
            break
        except _BrokenError:
            if number == _TRIES - 1:
                raise
            time.sleep(_WAIT * number)
    found, expected = _sha256(part), source.sha256 or offered
    if expected and found != expected:
        _discard(part)
        raise DownloadError(f"its SHA-256 is {found}, not {expected}")
    return found


def _transfer(address: str, part: Path, source: Source) -> str | None:
    """Transfer what is missing of the file; returns the SHA-256 that the hub states, if it does."""
    have, condition = _resumable(address, part)
    redirects = _Redirects()
    with _opened(address, condition, redirects) as response:
        if response.status == 416:  # nothing is missing
            return redirects.sha256
        resumed = response.status == 206
        have = have if resumed else 0
        length = response.headers["Content-Length"]
        size = have + int(length) if length else redirects.size or source.size
        _check_offer(source, size, redirects.sha256)
        _check_room(part, (size or 0) - have)
        if not resumed:
            _discard(part)
            _note(part, address, response.headers)
        with part.open("ab") as file, _bar(part, size, have) as bar:
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
    got = part.stat().st_size
    if size is not None and got != size:
        raise _BrokenError(f"the connection broke after {got / 1e6:.1f} of {size / 1e6:.1f} MB")
    return redirects.sha256


def _bar(part: Path, size: int | None, have: int) -> tqdm:
    name = part.name.removeprefix(".").removesuffix(".part")
    scale = {"unit": "B", "unit_scale": True, "disable": None}
    return tqdm(total=size, initial=have, desc=name, **scale)


def _resumable(address: str, part: Path) -> tuple[int, dict[str, str]]:
    """Bytes that are there, and the headers that ask for the rest of the same content."""
    try:
        noted = json.loads(_notes(part).read_text(encoding="utf-8"))
        have = part.stat().st_size
    except (OSError, ValueError):
        return 0, {}
    if noted["address"] != address or not have:
        return 0, {}
    return have, {"Range": f"bytes={have}-", "If-Range": noted["etag"]}


def _note(part: Path, address: str, headers: Message) -> None:
    """Keep what a later process needs to go on; without a strong ETag none can."""
    etag = headers["ETag"]
    if etag and not etag.startswith("W/"):
        noted = json.dumps({"address": address, "etag": etag})
        _notes(part).write_text(noted, encoding="utf-8")


def _notes(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, and keeps what the hub says of a file where it sends on to its storage.

    Attributes:
        sha256: of the content, if stated.
        size: of the content in bytes, if stated.
    """

    def __init__(self) -> None:
        self.sha256: str | None = None
        self.size: int | None = None

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        """The request that follows; not from https to http."""
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise URLError("it sends on to an address without encryption")
        # For a large file the hub's tag is its SHA-256, for a small one Git's hash.
        tag = headers.get("X-Linked-ETag", "").strip('"')
        if re.fullmatch("[0-9a-f]{64}", tag):
            self.sha256 = tag
        if headers.get("X-Linked-Size", "").isdigit():
            self.size = int(headers["X-Linked-Size"])
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(
    address: str, headers: dict[str, str], redirects: _Redirects
) -> HTTPResponse | HTTPError:
    request = Request(address, headers={"User-Agent": "lpnsr", **headers})
    have = headers.get("Range", "bytes=0-")[6:-1]
    try:
        response = build_opener(redirects).open(request, timeout=_TIMEOUT)
    except HTTPError as error:
        if error.code == 416 and error.headers["Content-Range"] == f"bytes */{have}":
            return error
        raise DownloadError(f"{error.code} {error.reason}") from error
    except URLError as error:
        raise DownloadError(f"no connection ({error.reason})") from error
    except (OSError, HTTPException) as error:
        raise DownloadError(f"no connection ({error or type(error).__name__})") from error
    start = (response.headers["Content-Range"] or "").partition("-")[0]
    if response.status == 206 and start != f"bytes {have}":
        response.close()
        raise DownloadError("it answers with another part of the file than it was asked for")
    return response


def _chunks(response: HTTPResponse | HTTPError) -> Iterator[bytes]:
    try:
        while chunk := response.read(_CHUNK):
            yield chunk
    except (OSError, HTTPException) as error:
        raise _BrokenError(f"the connection broke ({error or type(error).__name__})") from error


def _check_offer(source: Source, size: int | None, sha256: str | None) -> None:
    if size is None and not (source.sha256 or sha256):
        raise DownloadError("it says neither how large the file is nor what it hashes to")
    if source.size and size != source.size:
        raise DownloadError(f"it offers {size} bytes instead of {source.size}")
    if source.sha256 and sha256 and sha256 != source.sha256:
        raise DownloadError(f"it offers a file with SHA-256 {sha256}, not {source.sha256}")


def _check_room(part: Path, missing: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if missing + _MARGIN > free:
        raise OSError(f"{missing / 1e6:.0f} MB are missing and {free / 1e6:.0f} MB are free")


def _in_hub_cache(wanted: HubFile) -> Path:
    """Where Hugging Face's own client keeps a file."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = Path(os.environ.get("HF_HOME") or Path(caches) / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    repository = cache / f"models--{wanted.repository.replace('/', '--')}"
    reference = repository / "refs" / wanted.revision
    commit = reference.read_text().strip() if os.path.isfile(reference) else wanted.revision
    return repository / "snapshots" / commit / wanted.file


def _pins(folder: Path) -> dict[str, str]:
    file = folder / PINS
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise DownloadError(f"{file} is damaged; delete it") from error


def _pin(folder: Path, name: str, sha256: str) -> None:
    """Keep the SHA-256 that a file has had first."""
    text = json.dumps(_pins(folder) | {name: sha256}, indent=1) + "\n"
    partial = folder / f".{PINS}.part"
    partial.write_text(text, encoding="utf-8")
    partial.replace(folder / PINS)


def _differs(file: Path, found: str, expected: str, source: Source, folder: Path) -> str:
    origin = "was published" if source.sha256 else f"the first download had ({folder / PINS})"
    return f"{file} has SHA-256 {found}, but {expected} {origin}; delete it and download it again"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process downloads to the folder."""
    with (folder / ".lock").open("a") as lock:
        if not _try_lock(lock):
            print(f"another process downloads to {folder}; waiting for it", file=sys.stderr)
            while not _try_lock(lock):
                time.sleep(0.2)
        yield


def _try_lock(lock: IO[str]) -> bool:
    """Take a lock, which is given back when the file is closed or the process ends."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
