"""A machine-readable report of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.command.pipeline import Outcome
from lpnsr.runtime.pictures.formats import replacing


def write(
    path: Path,
    run: dict[str, Any],
    outcomes: Sequence[Outcome],
    skipped: Sequence[Job],
    unread: Mapping[Path, str],
) -> None:
    """Write the report as JSON.

    Args:
        path: the file, replaced if it exists.
        run: what applies to every picture: seed, model, backend.
        outcomes: the outcome of each picture.
        skipped: pictures whose output already existed.
        unread: pictures of kinds that are not read, and why not.

    Raises:
        OSError: the file cannot be written.
    """
    pictures = [entry(outcome) | run for outcome in outcomes]
    pictures += [_files(job) | {"skipped": True} for job in skipped]
    pictures += [
        {"input": str(source), "error": f"{source} {why}"} for source, why in unread.items()
    ]
    with replacing(path) as stream:
        stream.write((json.dumps({"pictures": pictures}, indent=1) + "\n").encode())


def entry(outcome: Outcome) -> dict[str, Any]:
    """What a report says of a picture that was tried."""
    files = _files(outcome.job)
    if outcome.error is not None:
        return files | {"error": outcome.error}
    return files | {
        "input_size": outcome.input_size,
        "output_size": outcome.output_size,
        "lost": outcome.lost,
        "seconds": {stage: round(spent, 4) for stage, spent in outcome.seconds.items()},
        "sha256": outcome.sha256,
    }


def _files(job: Job) -> dict[str, Any]:
    return {"input": str(job.source), "output": str(job.target)}
