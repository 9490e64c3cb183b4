"""Decides, before anything is computed, which picture goes to which file."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import chain, count
from pathlib import Path

from lpnsr.runtime.pictures import kinds
from lpnsr.runtime.pictures.formats import FORMATS

_WRITTEN = tuple(suffix for kind in FORMATS.values() for suffix in kind.suffixes)


class JobError(ValueError):
    """The inputs and the output do not fit together."""


@dataclass(frozen=True)
class Job:
    """One picture to upscale.

    Attributes:
        source: the file to read.
        target: the file to write.
    """

    source: Path
    target: Path


@dataclass(frozen=True)
class JobPlan:
    """What a run has to do.

    Attributes:
        jobs: the pictures to upscale, a folder's in the order of their names.
        unread: pictures of kinds that are not read here, and why not.
    """

    jobs: list[Job]
    unread: dict[Path, str]


@dataclass(frozen=True)
class Naming:
    """How pictures are found and their outputs named.

    Attributes:
        suffixes: of the output format; the first is given to files in an output folder.
        mark: appended to the name, before the suffix.
        pattern: what a file's name must look like to be taken from a folder, such as "*.jpg";
            case does not matter.
    """

    suffixes: tuple[str, ...] = (".png",)
    mark: str = ""
    pattern: str = "*"


def plan(
    inputs: Sequence[Path],
    output: Path | None,
    naming: Naming | None = None,
    *,
    replace: bool = False,
    warn: Callable[[str], None] = lambda message: None,
) -> JobPlan:
    """Pair every input picture with its output file.

    A single input file and an output with one of the format's suffixes, which is not a folder, are
    such a pair. Otherwise `output` is a folder. `photo.jpg` becomes `photo.png` in it; pictures
    found in a folder, at any depth and with one of `kinds.PICTURES`, keep their places relative to
    it. Without an output, outputs are beside their inputs. If some would get the same name, these
    keep their suffixes in it: `photo_jpg.png`, `photo_webp.png`; what is taken even then is
    numbered in the order of the inputs: `photo_jpg_2.png`. Symbolic links and hidden files in
    folders are left out, and so is `output` if it lies in one; where outputs go beside inputs,
    files of a folder whose names end with the mark are left out.

    Args:
        inputs: files and folders.
        output: file or folder; None to write beside the inputs.
        naming: how to find and to call files, by default all pictures as PNG.
        replace: whether output files may exist already.
        warn: called with what is left out because it cannot be read.

    Returns:
        The jobs, and what looks like a picture and is not read. Nothing has been made or written.

    Raises:
        JobError: an input is missing, a folder holds no picture, the output is unwritable, exists
            already, or is one of the inputs.
    """
    naming = naming or Naming()
    _refuse_missing(inputs)
    single = output is not None and _is_file(inputs, output, naming)
    found = [
        (file, output / relative if output else file)
        for path in inputs
        for file, relative in _pictures(path, output, naming, warn)
    ]
    reasons = {file: _unread(file) for file, _ in found}
    unread = {file: reason for file, reason in reasons.items() if reason}
    readable = [pair for pair in dict.fromkeys(found) if pair[0] not in unread]
    jobs = (
        [Job(file, output) for file, _ in readable]
        if output and single
        else _named(readable, naming)
    )
    _refuse_writing_over_inputs(jobs)
    _refuse_unwritable([job.target for job in jobs])
    existing = [job.target for job in jobs if job.target.exists()]
    if existing and not replace:
        more = f" and {len(existing) - 1} more exist" if len(existing) > 1 else " exists"
        raise JobError(
            f"{existing[0]}{more}; add --skip-existing or --overwrite, or choose another output"
        )
    return JobPlan(jobs, unread)


def check_report(report: Path, jobs: Sequence[Job]) -> None:
    """Refuse a report that cannot be written or would replace a picture.

    Raises:
        JobError: it is in no writable folder, or is an input or output of `jobs`.
    """
    _refuse_unwritable([report])
    pictures = {path.resolve() for job in jobs for path in (job.source, job.target)}
    if report.resolve() in pictures:
        raise JobError(f"{report} is one of the pictures; choose another file for the report")


def _refuse_missing(inputs: Sequence[Path]) -> None:
    for path in inputs:
        if not path.exists():
            raise JobError(f"{path} does not exist; name a picture or a folder of pictures")
        if not path.is_file() and not path.is_dir():
            raise JobError(f"{path} is a pipe or device; name a picture or a folder of pictures")


def _is_file(inputs: Sequence[Path], output: Path, naming: Naming) -> bool:
    """Whether `output` is the file for a single picture, not a folder."""
    if output.is_dir():
        return False
    suffix = output.suffix.lower()
    single = len(inputs) == 1 and inputs[0].is_file()
    if single and suffix in naming.suffixes:
        return True
    if output.exists():
        raise JobError(f"{output} exists and is not a folder; choose another output")
    if suffix in _WRITTEN:
        rule = f"the format's is {naming.suffixes[0]}" if single else "there can be several"
        raise JobError(f"{output} cannot be the output: {rule}; choose a folder")
    if suffix in kinds.PICTURES or re.fullmatch(r"\.[a-z]{2,4}", suffix):
        raise JobError(
            f"{output} cannot be the output: {suffix} is not written; end it with "
            f"{', '.join(_WRITTEN)}, or choose a folder"
        )
    return False


def _pictures(
    path: Path, output: Path | None, naming: Naming, warn: Callable[[str], None]
) -> Iterator[tuple[Path, Path]]:
    """Each picture in a file or folder, and its path relative to that."""
    if not path.is_dir():
        yield path, Path(path.name)
        return
    found = False
    target = output and output.resolve()
    mark = naming.mark if target in (None, path.resolve()) else ""

    def leave_out(error: OSError) -> None:
        warn(f"warning: {error.filename} is left out: {error.strerror}")

    for folder, names, files in os.walk(path, onerror=leave_out):
        here = Path(folder)
        names[:] = sorted(
            name for name in names if not name.startswith(".") and (here / name).resolve() != target
        )
        for name in sorted(files):
            file = here / name
            ours = file.is_symlink() or (mark and file.stem.endswith(mark))
            if is_picture(name, naming.pattern) and not ours and file.is_file():  # no pipe
                found = True
                yield file, file.relative_to(path)
    if not found:
        called = "" if naming.pattern == "*" else f" called {naming.pattern}"
        raise JobError(f"{path} holds no picture{called} ({', '.join(kinds.SUFFIXES)})")


def is_picture(name: str, pattern: str) -> bool:
    """Whether a file of a folder is taken for a picture, by its name."""
    suffix = os.path.splitext(name)[1].lower()
    wanted = suffix in kinds.PICTURES and not name.startswith(".")
    return wanted and fnmatchcase(name.lower(), pattern.lower())


def _unread(file: Path) -> str | None:
    """Why a picture is not read here; None also where this is found out only later."""
    if file.suffix.lower() not in kinds.UNSURE:
        return None
    try:
        return kinds.unread(file)
    except OSError:
        return None


def _named(found: Sequence[tuple[Path, Path]], naming: Naming) -> list[Job]:
    """Give each (file, place for its output, called like the file) its output file."""
    places = [(str(place.with_name(place.stem)), place.suffix) for _, place in found]
    targets = output_names(places, f"{naming.mark}{naming.suffixes[0]}")
    return [Job(source, Path(target)) for (source, _), target in zip(found, targets, strict=True)]


def output_names(places: Sequence[tuple[str, str]], ending: str) -> list[str]:
    """Give each output a name of its own, also where case does not matter.

    Args:
        places: where each output would be if it were called like its input: the path without its
            suffix, and the suffix.
        ending: what outputs end with.
    """
    shared = Counter(place.casefold() for place, _ in places)
    names: dict[str, str] = {}
    for place, suffix in places:
        stem = place if shared[place.casefold()] == 1 else f"{place}_{suffix[1:]}"
        stems = chain([stem], (f"{stem}_{number}" for number in count(2)))
        name = next(name for stem in stems if (name := stem + ending).casefold() not in names)
        names[name.casefold()] = name
    return list(names.values())


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


def _refuse_unwritable(targets: Sequence[Path]) -> None:
    for target in targets:
        if target.is_dir():
            raise JobError(f"{target} is a folder; choose another output")
    for folder in dict.fromkeys(target.parent for target in targets):
        ancestor = next(path for path in (folder, *folder.parents) if path.exists())
        if not ancestor.is_dir() or not os.access(ancestor, os.W_OK | os.X_OK):
            raise JobError(f"cannot write to {ancestor}; choose another output")
