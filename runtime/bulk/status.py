"""What a run has come to: its status, its report, and its failures once more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lpnsr.runtime.bulk.account import FAILED, RESULTS, STARTED, Line, read_lines, reopen
from lpnsr.runtime.bulk.plan import Plan
from lpnsr.runtime.bulk.storage import Folder, ahead
from lpnsr.runtime.command.jobs import JobError
from lpnsr.runtime.pictures.formats import replacing

KINDS = (".jsonl", ".parquet")
"""Of reports."""

_BATCH = 100_000
"""Pictures that a report holds in memory at once."""


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        plan: what there is to do.
        done: numbers of the shards whose results are there.
        started: numbers of those that are worked on, or whose worker has ended.
        failed: numbers of those that are done and hold pictures that failed.
    """

    plan: Plan
    done: frozenset[int]
    started: frozenset[int]
    failed: frozenset[int]

    @classmethod
    def of(cls, run: Folder, plan: Plan) -> Status:
        """Find out by listing three folders."""
        done = _numbers(run, RESULTS)
        return cls(plan, done, _numbers(run, STARTED) - done, _numbers(run, FAILED) & done)

    def undone(self) -> list[int]:
        """Numbers of the shards that are left to do."""
        return [number for number in range(len(self.plan.shards)) if number not in self.done]

    def describe(self) -> str:
        """The status in lines."""
        shards = self.plan.shards
        done = [shards[number] for number in self.done]
        pairs = (
            ("shards", len(done), len(shards)),
            ("pictures", sum(s.pictures for s in done), sum(s.pictures for s in shards)),
            ("megapixels", *(round(sum(s.pixels for s in part) / 1e6) for part in (done, shards))),
        )
        lines = [f"{name:<11}{n:,} of {total:,} done" for name, n, total in pairs]
        return "\n".join([*lines, f"under way  {len(self.started):,} shards"])


def failures(run: Folder, shards: frozenset[int]) -> Iterator[Line]:
    """The lines of the pictures of some shards that failed."""
    for lines in _files(run, FAILED, shards):
        yield from lines


def retry(run: Folder, status: Status) -> int:
    """Let all pictures that failed be tried again; returns how many there are."""
    return sum(ahead(partial(reopen, run), sorted(status.failed)))


def write_report(run: Folder, status: Status, path: Path) -> int:
    """Write a line for every picture of the shards that are done; returns how many there are.

    Args:
        run: the folder of the run.
        status: of the run.
        path: the file, replaced if it is there: JSON lines or Parquet, as its name says.

    Raises:
        JobError: it is called otherwise.
        ImportError: pyarrow is missing.
        OSError: it cannot be written.
    """
    if path.suffix.lower() not in KINDS:
        raise JobError(f"{path} cannot be a report; end it with {' or '.join(KINDS)}")
    files = _files(run, RESULTS, status.done)
    if path.suffix.lower() == ".parquet":
        return _write_parquet(path, files)
    count = 0
    with replacing(path) as stream:
        for lines in files:
            stream.write("".join(f"{json.dumps(line)}\n" for line in lines).encode())
            count += len(lines)
    return count


def _write_parquet(path: Path, files: Iterator[list[Line]]) -> int:
    import pyarrow
    from pyarrow import parquet

    text, number = pyarrow.string(), pyarrow.int64()
    stages = ("decode", "compute", "encode")
    schema = pyarrow.schema(
        {
            "input": text,
            "output": text,
            "error": text,
            "input_size": pyarrow.list_(number),
            "output_size": pyarrow.list_(number),
            "lost": pyarrow.list_(text),
            "seconds": pyarrow.struct({stage: pyarrow.float64() for stage in stages}),
            "sha256": text,
            "engine": text,
            "attempts": number,
        }.items()
    )
    count = 0
    with replacing(path) as stream, parquet.ParquetWriter(stream, schema) as writer:
        for batch in _batches(files):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema))
            count += len(batch)
    return count


def _batches(files: Iterator[list[Line]]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    for lines in files:
        batch += lines
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    yield batch


def _files(run: Folder, place: str, shards: frozenset[int]) -> Iterator[list[Line]]:
    names = [f"{place}/{number:06}.jsonl" for number in sorted(shards)]
    return ahead(partial(read_lines, run), names)


def _numbers(run: Folder, place: str) -> frozenset[int]:
    """Shards that have a file there; hidden files are unfinished ones."""
    names = (name for name in run.names(place) if not name.startswith("."))
    return frozenset(int(name.split(".")[0]) for name in names)
