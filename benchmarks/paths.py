"""A store of millions of pictures that are not there, and what it takes to plan a run over them."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
from PIL import Image

from lpnsr.runtime.bulk import planning
from lpnsr.runtime.bulk.account import FAILED, RESULTS
from lpnsr.runtime.bulk.plan import Plan, RunOptions
from lpnsr.runtime.bulk.status import Status
from lpnsr.runtime.bulk.storage import Folder

_FOLDER = 1000
"""Pictures of a folder."""

_SIDE = 512
"""Pixels of a picture's side."""


class Simulated(fsspec.AbstractFileSystem):
    """A store that lists as many pictures as its root is called; all have the same content."""

    protocol = "simulated"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        stream = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)
        Image.fromarray(noise).save(stream, "JPEG")
        self._content = stream.getvalue()

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[dict[str, Any]]:
        """Folders of pictures, or the pictures of one."""
        root, _, folder = path.partition("/")
        count = int(root)
        if not folder:
            numbers = range(-(-count // _FOLDER))
            return [{"name": f"{root}/{n:06}", "size": 0, "type": "directory"} for n in numbers]
        first, size = int(folder) * _FOLDER, len(self._content)
        return [
            {
                "name": f"{root}/{folder}/photograph-{n:09}.jpg",
                "size": size // 2 + n * 7919 % size,
                "type": "file",
            }
            for n in range(first, min(count, first + _FOLDER))
        ]

    def get_file(self, rpath: str, lpath: str, **options: Any) -> None:
        """Write the content that all pictures have."""
        Path(lpath).write_bytes(self._content)


def measure(count: int) -> str:
    """Plan a run of some simulated pictures and tell its status when half of it is done.

    Returns:
        what both took, in words.
    """
    fsspec.register_implementation("simulated", Simulated, clobber=True)
    with tempfile.TemporaryDirectory() as name:
        run = Folder(f"{name}/run")
        empty = Plan(f"simulated://{count}", f"{name}/out", "", "", "", RunOptions())
        start = time.perf_counter()
        plan = planning.make(empty, run, 1000.0, print)
        planned = time.perf_counter()
        for number in range(0, len(plan.shards), 2):
            for place in (RESULTS, FAILED)[: 1 + (number % 100 == 0)]:
                file = Path(name, "run", place, f"{number:06}.jsonl")
                file.parent.mkdir(exist_ok=True)
                file.touch()
        begun = time.perf_counter()
        described = Status.of(run, Plan.read(run)).describe().splitlines()
        told = time.perf_counter() - begun
    assert f" of {count:,} done" in described[1]
    return (
        f"{count:,} pictures in {len(plan.shards):,} shards: {planned - start:.1f} s to list and "
        f"cut them, {told:.2f} s for the status"
    )
