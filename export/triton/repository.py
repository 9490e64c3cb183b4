"""Writes model repositories of the Triton Inference Server."""

from __future__ import annotations

import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from string import Template

from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import BundleError

_CONFIG, _MODEL, _VERSION = "config.pbtxt", "model.py", "1"


def check(folder: Path, name: str, force: bool) -> None:
    """See that a model can be put into a repository.

    Args:
        folder: of the repository.
        name: of the model.
        force: whether it may replace a model that is there.

    Raises:
        BundleError: there is one, or something else.
    """
    target = folder / name
    if not target.exists():
        return
    if not (target / _CONFIG).is_file():
        raise BundleError(f"{target} exists and is not a Triton model; name another folder")
    if not force:
        raise BundleError(f"{target} exists; add --force to replace it or name another folder")


def write(bundle: Bundle, folder: Path, force: bool = False) -> Path:
    """Put a bundle into a model repository, under its preset's name; appears whole or not at all.

    The repository does not depend on the bundle afterwards. Where Triton runs, its Python needs
    this package and an inference engine.

    Args:
        bundle: the model.
        folder: of the repository, which may hold others.
        force: replace a model of this name.

    Returns:
        the model's folder: `config.pbtxt`, `1/model.py` and `1/bundle`.

    Raises:
        BundleError: see `check`.
        OSError: it cannot be written.
    """
    name = bundle.manifest.preset
    check(folder, name, force)
    target = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=folder) as made:
        model = Path(made) / "model"
        shutil.copytree(bundle.path, model / _VERSION / "bundle")
        sources = files("lpnsr.export.triton")
        kind = "KIND_GPU" if bundle.manifest.engines else "KIND_CPU"
        text = Template(sources.joinpath(_CONFIG).read_text(encoding="utf-8"))
        (model / _CONFIG).write_text(text.substitute(name=name, kind=kind), encoding="utf-8")
        (model / _VERSION / _MODEL).write_bytes(sources.joinpath(_MODEL).read_bytes())
        if target.exists():
            shutil.move(target, Path(made) / "replaced")
        model.rename(target)
    return target
