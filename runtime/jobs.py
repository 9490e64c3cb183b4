"""Works out, before anything is computed, which picture goes to which file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lpnsr.runtime.images import SUFFIXES


class JobError(ValueError):
    """The inputs and the output do not make a run."""


@dataclass(frozen=True)
class Job:
    """One picture to upscale.

    Attributes:
        source: the file to read.
        target: the PNG file to write.
    """

    source: Path
    target: Path


def plan(inputs: Sequence[Path], output: Path, *, overwrite: bool = False) -> list[Job]:
    """Pair every input picture with its output file.

    A single input file and an output called `*.png`, which is not a folder, are such a pair.
    Otherwise `output` is a folder. `photo.jpg` becomes `photo.png` in it; pictures found in a
    folder, at any depth and with one of `SUFFIXES`, keep their places relative to it. If some would
    get the same name, these keep their suffixes in it: `photo_jpg.png`, `photo_webp.png`. Symbolic
    links and hidden files in folders are left out, and so is `output` if it lies in one.

    Args:
        inputs: files and folders.
        output: file or folder.
        overwrite: whether output files may exist already.

    Returns:
        The jobs, a folder's in the order of their names. Nothing has been made or written.

    Raises:
        JobError: an input is missing, a folder holds no picture, names clash, the output is
            unwritable, exists already, or is one of the inputs.
        OSError: a folder cannot be read.
    """
    for path in inputs:
        if not path.exists():
            raise JobError(f"{path} does not exist; name a picture or a folder of pictures")
    is_file = _is_file(inputs, output)
    if is_file:
        jobs = [Job(inputs[0], output)]
    else:
        sources = [found for path in inputs for found in _pictures(path, output)]
        jobs = _named(list(dict.fromkeys(sources)), output)
    _refuse_writing_over_inputs(jobs)
    _refuse_unwritable(jobs)
    existing = [job.target for job in jobs if job.target.exists()]
    if existing and not overwrite:
        more = f" and {len(existing) - 1} more exist" if len(existing) > 1 else " exists"
        raise JobError(f"{existing[0]}{more}; add --overwrite or choose another output")
    return jobs


def _is_file(inputs: Sequence[Path], output: Path) -> bool:
    """Whether `output` is the file for a single picture, not a folder."""
    if output.is_dir():
        return False
    suffix = output.suffix.lower()
    if len(inputs) == 1 and inputs[0].is_file() and suffix == ".png":
        return True
    if suffix in SUFFIXES:
        rule = "only PNG files are written" if suffix != ".png" else "there can be several pictures"
        raise JobError(f"{output} cannot be the output: {rule}; choose a folder")
    if output.exists():
        raise JobError(f"{output} exists and is not a folder; choose another output")
    return False


def _pictures(path: Path, output: Path) -> Iterator[tuple[Path, Path]]:
    """Each picture in a file or folder, and its path relative to that."""
    if not path.is_dir():
        yield path, Path(path.name)
        return
    found = False
    for folder, names, files in os.walk(path, onerror=_raise):
        here = Path(folder)
        names[:] = sorted(
            name
            for name in names
            if not name.startswith(".") and (here / name).resolve() != output.resolve()
        )
        for name in sorted(files):
            file = here / name
            hidden = name.startswith(".") or file.is_symlink()
            if not hidden and file.suffix.lower() in SUFFIXES:
                found = True
                yield file, file.relative_to(path)
    if not found:
        raise JobError(f"{path} holds no picture ({', '.join(SUFFIXES)})")


def _raise(error: OSError) -> None:
    raise error


def _named(sources: Sequence[tuple[Path, Path]], output: Path) -> list[Job]:
    """Give each (file, relative path) its output file."""
    short = [relative.with_name(relative.stem + ".png") for _, relative in sources]
    counts = Counter(short)
    jobs: dict[Path, Job] = {}
    for (source, relative), name in zip(sources, short, strict=True):
        if counts[name] > 1:
            name = relative.with_name(f"{relative.stem}_{relative.suffix[1:]}.png")
        if name in jobs:
            raise JobError(
                f"{jobs[name].source} and {source} would both become {output / name}; "
                "upscale them in separate runs"
            )
        jobs[name] = Job(source, output / name)
    return list(jobs.values())


def _refuse_writing_over_inputs(jobs: Sequence[Job]) -> None:
    inputs = {_identity(job.source): job.source for job in jobs}
    for job in jobs:
        if job.target.exists() and _identity(job.target) in inputs:
            raise JobError(
                f"{job.target} is the input {inputs[_identity(job.target)]}; "
                "choose another output folder"
            )


def _identity(path: Path) -> tuple[int, int]:
    """Equal for two paths exactly if they lead to the same file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _refuse_unwritable(jobs: Sequence[Job]) -> None:
    for target in dict.fromkeys(job.target for job in jobs):
        if target.is_dir():
            raise JobError(f"{target} is a folder; choose another output")
    for folder in dict.fromkeys(job.target.parent for job in jobs):
        ancestor = next(path for path in (folder, *folder.parents) if path.exists())
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
            raise JobError(f"cannot write to {ancestor}; choose another output")
