"""What is known of the pictures of a shard, so that the next process goes on where one ended.

started/000012.json    while the shard is worked on: attempts, and lines of the report
failed/000012.jsonl    the lines of pictures that failed, if any
results/000012.jsonl   all lines; that it is there says that the shard is done
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from lpnsr.runtime.bulk.storage import Folder

ATTEMPTS = 3
"""Of each picture."""

RESULTS, FAILED, STARTED = "results", "failed", "started"
"""Folders in that of a run."""

_PAUSE = 30.0
"""Seconds between notes: as much work is done again at most when a process is killed."""

Line = dict[str, Any]
"""What the report says of a picture: `lpnsr-run`'s, with "attempts" and "engine"."""


class Account:
    """The account of one shard.

    Args:
        run: the folder of the run.
        shard: its number.
        count: pictures in it.

    Attributes:
        resumed: another process has begun, and may have ended because of one of the pictures.
        reason: what that process has said, "" for nothing.
    """

    def __init__(self, run: Folder, shard: int, count: int) -> None:
        self._run, self._shard, self._count = run, shard, count
        try:
            found = json.loads(run.read(f"{STARTED}/{shard:06}.json"))
        except FileNotFoundError:
            found = {}
        self.resumed = bool(found)
        self._tries: list[int] = found.get("tries", [0] * count)
        self._lines: list[Line | None] = found.get("lines", [None] * count)
        self.reason: str = found.get("reason", "")
        self._saved = 0.0

    def waiting(self) -> list[int]:
        """Numbers of the pictures that are neither done nor given up."""
        return [i for i in range(self._count) if self._is_open(i)]

    def lost(self) -> list[int]:
        """Numbers of those with which a process has ended at each attempt."""
        return [
            i for i in range(self._count) if self._lines[i] is None and self._tries[i] >= ATTEMPTS
        ]

    def begin(self, pictures: Sequence[int]) -> None:
        """Count an attempt of some pictures, before it is made."""
        for i in pictures:
            self._tries[i] += 1
            self._lines[i] = None
        self.save()

    def withdraw(self, pictures: Sequence[int]) -> None:
        """Do not count the attempt of those of which nothing has come."""
        for i in pictures:
            if self._lines[i] is None:
                self._tries[i] -= 1
        self.save()

    def note(self, picture: int, line: Line) -> None:
        """Keep what has become of a picture."""
        self._lines[picture] = {"attempts": self._tries[picture]} | line
        if time.monotonic() > self._saved + _PAUSE:
            self.save()

    def save(self) -> None:
        """Write everything down."""
        content = {"tries": self._tries, "lines": self._lines, "reason": self.reason}
        self._run.write(f"{STARTED}/{self._shard:06}.json", json.dumps(content).encode())
        self._saved = time.monotonic()

    def close(self) -> tuple[int, int]:
        """Write the results, now that all is known; returns how many there are, and have failed."""
        name, lines = f"{self._shard:06}.jsonl", [line for line in self._lines if line is not None]
        failed = [line for line in lines if "error" in line]
        if failed:
            self._run.write(f"{FAILED}/{name}", _text(failed))
        else:
            self._run.remove(f"{FAILED}/{name}")
        self._run.write(f"{RESULTS}/{name}", _text(lines))
        self._run.remove(f"{STARTED}/{self._shard:06}.json")
        return self._count, len(failed)

    def _is_open(self, picture: int) -> bool:
        line = self._lines[picture]
        return (line is None or "error" in line) and self._tries[picture] < ATTEMPTS


def reopen(run: Folder, shard: int) -> int:
    """Let the pictures of a finished shard that failed be tried again; returns how many."""
    name = f"{shard:06}.jsonl"
    lines = read_lines(run, f"{RESULTS}/{name}")
    account, failed = Account(run, shard, len(lines)), 0
    for i, line in enumerate(lines):
        if "error" in line:
            failed += 1
        else:
            account.note(i, line)
    account.save()
    run.remove(f"{RESULTS}/{name}")
    run.remove(f"{FAILED}/{name}")
    return failed


def read_lines(run: Folder, name: str) -> list[Line]:
    """The lines of a file of results."""
    return [json.loads(line) for line in run.read(name).splitlines()]


def _text(lines: Sequence[Line]) -> bytes:
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()
