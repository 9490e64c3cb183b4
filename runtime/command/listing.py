"""What `lpnsr-run --list` shows: models, backends and devices, and what the others lack."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from lpnsr.kernels import cuda
from lpnsr.runtime import backends
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.bundle import BUILTIN, BUILTIN_NAME
from lpnsr.runtime.home import bundle_folder
from lpnsr.runtime.manifest import MANIFEST, BundleError, Manifest

PUBLISHED = ("lpnsr", "resshift", "resshift-15", "sinsr", "upsr", "real-esrgan")
"""Presets of `lpnsr-export` whose weights their authors have published."""


def describe() -> str:
    """All that is here, a line each."""
    return "\n".join(
        f"{title}\n" + "\n".join(f"  {name:<17} {text}" for name, text in lines)
        for title, lines in (
            ("models", _models()),
            ("backends", _backends()),
            ("devices", _devices()),
        )
    )


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _models() -> Iterator[tuple[str, str]]:
    yield BUILTIN_NAME, f"built in, {_model(BUILTIN)}"
    folder = bundle_folder("any").parent
    here = {file.parent.name for file in folder.glob(f"[!.]*/{MANIFEST}")}
    for name in sorted(here):
        yield name, f"{folder / name}, {_model(folder / name)}"
    for name in PUBLISHED:
        if name not in here:
            yield name, f"missing; run: lpnsr-export --preset {name} --download"


def _model(folder: Path) -> str:
    try:
        manifest = Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (BundleError, OSError, UnicodeDecodeError) as error:
        return f"cannot be used: {error}"
    tiles = dict.fromkeys("{}x{}".format(*graph.tile) for graph in manifest.graphs)
    steps = manifest.variant.get("steps")
    built = dict.fromkeys(f"{e.builder} for {' '.join(e.gpus)}" for e in manifest.engines)
    parts = [f"{steps} steps" if steps else "", f"tiles {' '.join(tiles)}"]
    parts += [f"engines of {', '.join(built)}"] if built else []
    return ", ".join(part for part in parts if part)


def _backends() -> Iterator[tuple[str, str]]:
    for name in backends.NAMES:
        if name == "auto":
            continue
        try:
            backend, _ = backends.create(name)
        except BackendError as error:
            yield name, f"missing; {error}"
        else:
            yield name, backend.describe() + (", and in bf16" if _has_bf16(name) else "")


def _has_bf16(name: str) -> bool:
    try:
        backends.create(name, precision="bf16")
    except BackendError:
        return False
    return True


def _devices() -> Iterator[tuple[str, str]]:
    yield "cpu", f"{processor()}, {os.cpu_count()} cores"
    try:
        device = cuda.device()
    except cuda.KernelError as error:
        yield "cuda", f"missing; {error}"
    else:
        yield "cuda", f"{device.name}, sm_{device.arch}"
