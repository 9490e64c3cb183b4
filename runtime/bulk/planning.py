"""Lists the inputs once and cuts them into shards of equal output pixels.

Beside the folder that is being listed, a picture takes 9 bytes of memory until the plan is written:
its names wait on the local disk.
"""

from __future__ import annotations

import gzip
import json
import random
import tempfile
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from math import ceil
from os.path import splitext
from pathlib import Path
from typing import TextIO

import numpy as np

from lpnsr.runtime.bulk.plan import Plan, RunOptions, Shard, shard_file
from lpnsr.runtime.bulk.storage import Folder, StorageError, ahead
from lpnsr.runtime.command.jobs import JobError, is_picture, output_names
from lpnsr.runtime.pictures import images
from lpnsr.runtime.pictures.formats import FORMATS

_SAMPLE = 200
"""Pictures of each suffix that are opened; the size of others follows from their bytes."""

_LEAST = 8
"""Shards that there are at least, of a picture or more: for a few workers to end together."""

_MOST = 10_000
"""The smallest pictures count as this part of a shard, so that it holds at most twice as many."""

_LEVEL = 1
"""Effort of gzip."""


@dataclass
class _Kind:
    """Files with one suffix: how many, and some of them, each as likely as the others."""

    code: int
    count: int = 0
    sample: dict[int, tuple[int, str]] = field(default_factory=dict)

    def add(self, index: int, place: str, dice: random.Random) -> None:
        slot = self.count if self.count < _SAMPLE else int(dice.random() * (self.count + 1))
        if slot < _SAMPLE:
            self.sample[slot] = (index, place)
        self.count += 1


def make(
    empty: Plan,
    run: Folder,
    megapixels: float,
    warn: Callable[[str], None],
    tell: Callable[[str], None] = lambda message: None,
) -> Plan:
    """Make the plan of a run and write it.

    Args:
        empty: the plan without shards.
        run: the folder of the run.
        megapixels: millions of output pixels of a shard.
        warn: called with what is left out.
        tell: called with how far the listing is.

    Raises:
        JobError: there is no picture, or outputs would replace inputs.
        StorageError: a store fails.
        OSError: a disk is full.
    """
    source, output, options = Folder(empty.input), Folder(empty.output), empty.options
    if output.holds(source):
        raise JobError(f"{output.url} holds the inputs; choose another output")
    sizes, codes, dice = array("Q"), array("B"), random.Random(0)
    kinds: dict[str, _Kind] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        for group in _listed(source, output, options.pattern, warn):
            places = [splitext(place) for place, _ in group]
            targets = output_names(places, options.suffix + FORMATS[options.format].suffixes[0])
            for (place, size), (_, suffix), target in zip(group, places, targets, strict=True):
                spool.write(f"{json.dumps([place, target])}\n")
                suffix = suffix.lower()
                kind = kinds.get(suffix) or kinds.setdefault(suffix, _Kind(len(kinds)))
                kind.add(len(sizes), place, dice)
                sizes.append(size)
                codes.append(kind.code)
            tell(f"{len(sizes):,} pictures listed")
        if not sizes:
            called = "" if options.pattern == "*" else f" called {options.pattern}"
            raise JobError(f"{source.url} holds no picture{called}")
        pixels = _pixels(source, options, sizes, codes, list(kinds.values()))
        shards = _cut(pixels, megapixels * 1e6)
        _write(spool, run, shards)
    plan = replace(empty, shards=tuple(shards))
    plan.write(run)
    return plan


def _listed(
    source: Folder, output: Folder, pattern: str, warn: Callable[[str], None]
) -> Iterator[list[tuple[str, int]]]:
    """Place and bytes of every picture, folder by folder, in the order of their names.

    Folders whose names differ in case alone come together, as `lpnsr-run` names their outputs
    together.
    """
    waiting = [[""]]
    while waiting:
        files, inner = [], defaultdict(list)
        for folder in waiting.pop():
            try:
                entries = source.entries(folder)
            except (FileNotFoundError, PermissionError) as error:
                if not folder:
                    raise JobError(f"{error}; name a folder of pictures") from error
                warn(f"warning: {error}; left out")
                continue
            for entry in entries:
                place = f"{folder}/{entry.name}" if folder else entry.name
                if entry.bytes is not None:
                    if is_picture(entry.name, pattern):
                        files.append((place, entry.bytes))
                elif not entry.name.startswith(".") and f"{source.url}/{place}" != output.url:
                    inner[place.casefold()].append(place)
        if files:
            yield files
        waiting += [inner[key] for key in sorted(inner, reverse=True)]


def _pixels(
    source: Folder, options: RunOptions, sizes: array, codes: array, kinds: list[_Kind]
) -> np.ndarray:
    """Output pixels of every picture: of those in the samples exactly, of others by their bytes."""
    known: dict[int, int] = {}
    rates = np.zeros(len(kinds))
    with tempfile.TemporaryDirectory(prefix="lpnsr-") as folder:

        def opened(item: tuple[int, str]) -> tuple[int, int | None]:
            return item[0], _output_pixels(source, item[1], options, Path(folder))

        for kind in kinds:
            read = {index: n for index, n in ahead(opened, kind.sample.values()) if n is not None}
            if read:
                rates[kind.code] = sum(read.values()) / max(1, sum(sizes[index] for index in read))
            known |= read
    pixels = np.asarray(sizes) * rates[np.asarray(codes)]
    pixels[list(known)] = list(known.values())
    return pixels


def _output_pixels(source: Folder, place: str, options: RunOptions, folder: Path) -> int | None:
    """The pixels of a picture's output; None if it cannot be read, which the run will report."""
    with suppress(images.ImageError, FileNotFoundError, PermissionError):
        if source.path:
            size = images.probe(source.path / place).size
        else:
            copy = folder / place.replace("/", "_")[-200:]
            try:
                source.fetch(place, copy)
                size = images.probe(copy).size
            finally:
                copy.unlink(missing_ok=True)
        height, width = options.recipe.target(size)
        return height * width
    return None


def _cut(pixels: np.ndarray, most: float) -> list[Shard]:
    """Shards of neighbouring pictures, with as equal sums as these allow."""
    count = max(ceil(pixels.sum() / most), ceil(len(pixels) / _MOST), min(len(pixels), _LEAST))
    weights = np.maximum(pixels, max(1.0, pixels.sum() / count / _MOST))
    ends = np.cumsum(weights)
    shards = ((ends - weights / 2) * (count / ends[-1])).astype(np.int64)
    pictures = np.bincount(shards, minlength=count)
    sums = np.bincount(shards, weights=pixels, minlength=count)
    return [Shard(int(n), round(s)) for n, s in zip(pictures, sums, strict=True) if n]


def _write(spool: TextIO, run: Folder, shards: list[Shard]) -> None:
    spool.seek(0)

    def contents() -> Iterator[tuple[str, bytes]]:
        for number, shard in enumerate(shards):
            lines = "".join(islice(spool, shard.pictures)).encode()
            yield shard_file(number), gzip.compress(lines, _LEVEL, mtime=0)

    for _ in ahead(lambda item: run.write(*item), contents()):
        pass


def check_empty(output: Folder) -> None:
    """Refuse a folder of outputs that holds anything.

    Raises:
        JobError: it does.
        StorageError: it cannot be listed.
    """
    try:
        found = output.entries()
    except FileNotFoundError:
        return
    except PermissionError as error:
        raise StorageError(f"{error}; choose another output") from error
    if found:
        raise JobError(
            f"{output.url} is not empty; choose another output, or add --overwrite to replace "
            "files that have an output's name"
        )
