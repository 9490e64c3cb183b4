"""One process with one engine: takes a shard and upscales its pictures as `lpnsr-run` does."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from os.path import splitext
from pathlib import Path
from threading import Event

import numpy as np

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bulk.account import Account, Line
from lpnsr.runtime.bulk.plan import Plan, ShardRow
from lpnsr.runtime.bulk.storage import Folder, StorageError, ahead
from lpnsr.runtime.command import opening, report
from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.command.pipeline import DISK, Outcome, Pipeline, is_fatal
from lpnsr.runtime.pictures.formats import FORMATS

STAGING = ".lpnsr-bulk"
"""What folders of unfinished outputs in a local folder of outputs begin with."""


class Stopped(Exception):
    """The worker was asked to stop; its shard can be taken up again."""


class Worker:
    """Works on shards, one after the other.

    Args:
        run: URL of the folder of the run.
        model: where the bundle is on this machine; None for where it was when the plan was made.
        threads: CPU threads; by default the engine decides.
        device: such as "cuda:1", for a process that has the choice.
        stop: ends the work in an orderly way once it is set.

    Attributes:
        plan: of the run.
        choice: which engine runs the model, and why.

    Raises:
        JobError: there is no plan, or it is for another version or another bundle.
        BackendError, BundleError, TilingError: the engine cannot be started.
        OSError: a folder cannot be read.
    """

    def __init__(
        self,
        run: str,
        model: Path | None = None,
        threads: int | None = None,
        device: str | None = None,
        stop: Event | None = None,
    ) -> None:
        self._run, self._stop = Folder(run), stop or Event()
        self.plan = plan = Plan.read(self._run)
        self._source, self._output = Folder(plan.input), Folder(plan.output)
        options = plan.options
        opening.prepare(options.max_megapixels, threads)
        self._upscaler = upscaler = plan.upscaler(model, threads, device)
        # A GPU that is gone shows here, before it is taken for a picture's fault.
        upscaler.upscale(np.zeros((*upscaler.layout((1, 1)).graph.tile, 3), np.uint8))
        self.choice, self._engine = upscaler.choice, upscaler.backend.describe()
        self._pipeline = Pipeline(
            upscaler,
            options.recipe,
            FORMATS[options.format],
            options.quality,
            lambda message: None,
            lambda job, done, total: None,
            self._stop,
            options.salvage,
        )

    def work(self, shard: int) -> tuple[int, int]:
        """Upscale the pictures of a shard; returns how many there are, and how many have failed.

        Where an earlier process has ended in the middle, it takes one picture at a time, so that
        the one that ends processes is found: it gets as many attempts as any other.

        Raises:
            BackendError: the engine fails, as a GPU does that is gone; end the process.
            Stopped: as asked.
            JobError: the shard cannot be read.
            OSError: the disk is full, or the folder of the run fails.
        """
        rows = self.plan.rows(self._run, shard)
        account = Account(self._run, shard, len(rows))
        for i in account.lost():
            reason = account.reason or "its process has ended at every attempt; is memory enough?"
            account.note(i, _failure(rows[i], reason))
        with self._staging(shard) as staging:
            while waiting := account.waiting():
                for pictures in [[i] for i in waiting] if account.resumed else [waiting]:
                    self._attempt(rows, pictures, account, staging)
        return account.close()

    def _attempt(
        self, rows: Sequence[ShardRow], pictures: Sequence[int], account: Account, staging: Path
    ) -> None:
        """Try some pictures, and note what becomes of them."""
        unread: list[tuple[int, OSError]] = []
        account.begin(pictures)
        try:
            jobs = self._jobs(rows, pictures, staging, unread)
            with closing(self._pipeline.run(jobs)) as outcomes:
                for i, line in ahead(partial(self._publish, rows), outcomes):
                    account.note(i, line)
        except BackendError as error:
            account.reason = str(error)
            account.save()
            raise
        except StorageError:
            account.withdraw(pictures)
            raise
        for i, reason in unread:
            account.note(i, _failure(rows[i], str(reason)))
        if self._stop.is_set():
            account.withdraw(pictures)
            raise Stopped

    def _jobs(
        self,
        rows: Sequence[ShardRow],
        pictures: Sequence[int],
        staging: Path,
        unread: list[tuple[int, OSError]],
    ) -> Iterator[Job]:
        """A job for every picture whose file can be had; called by the pipeline's reading thread.

        The output's file is called by the picture's number.
        """

        def fetched(i: int) -> tuple[int, Path | OSError]:
            try:
                return i, self._file(rows[i].input, staging / f"in-{i}")
            except OSError as error:
                if error.errno in DISK:
                    raise StorageError(f"cannot write to {staging}: {error}") from error
                return i, error

        for i, found in ahead(fetched, pictures):
            if isinstance(found, OSError):
                unread.append((i, found))
            else:
                yield Job(found, staging / f"{i}{splitext(rows[i].output)[1]}")

    def _file(self, name: str, copy: Path) -> Path:
        """An input as a local file."""
        if self._source.path:
            return self._source.path / name
        copy = copy.with_suffix(splitext(name)[1])
        self._source.fetch(name, copy)
        return copy

    def _publish(self, rows: Sequence[ShardRow], outcome: Outcome) -> tuple[int, Line]:
        """Put a finished output into its place; returns the picture's number and line."""
        job, i = outcome.job, int(outcome.job.target.stem)
        if is_fatal(outcome):
            raise StorageError(outcome.error)
        if not self._source.path:
            job.source.unlink(missing_ok=True)
        if outcome.error is not None:
            text = outcome.error.replace(str(job.source), rows[i].input)
            return i, _failure(rows[i], text.replace(str(job.target), rows[i].output))
        try:
            self._output.put(job.target, rows[i].output)
        except OSError as error:
            if error.errno in DISK:
                raise StorageError(str(error)) from error
            return i, _failure(rows[i], str(error))
        return i, report.entry(outcome) | rows[i]._asdict() | {"engine": self._engine}

    @contextmanager
    def _staging(self, shard: int) -> Iterator[Path]:
        """An empty folder for files that are under way, on the disk of the outputs if it is local.

        A process that is killed leaves it behind, and the next one that takes the shard empties it.
        """
        if self._output.path is None:
            with tempfile.TemporaryDirectory(prefix="lpnsr-") as name:
                yield Path(name)
            return
        folder = self._output.path / f"{STAGING}-{shard:06}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _failure(row: ShardRow, error: str) -> Line:
    return {**row._asdict(), "error": " ".join(error.split())}
