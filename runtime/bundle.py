"""The bundle: the only thing that passes from export to runtime.

A bundle is a folder with `manifest.json`, ONNX graphs for every tile and batch shape, one file with
the weights that all graphs share, and engines, which are graphs that were built for certain GPUs.
The topology is "unrolled", one graph of the whole chain for a shape, or "staged", one graph for
each network, which `lpnsr.runtime.backends.staged` drives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from lpnsr.runtime.home import bundle_folder
from lpnsr.runtime.manifest import MANIFEST, BundleError, Graph, Manifest, StageGraph
from lpnsr.runtime.onnxfile import DamagedError, references

if TYPE_CHECKING:
    import numpy as np

BUILTIN = Path(__file__).resolve().parent / "builtin"
BUILTIN_NAME = "lpnsr-tiny"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files are known to match their hashes."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the bundle in folder `path` and check every file against its SHA-256.

        Args:
            path: its folder, or its name, if `lpnsr-export` has put it into the cache.

        Raises:
            BundleError: no bundle there, a file is missing or differs from its hash, or a name in
                the manifest points out of the bundle.
        """
        path = locate(Path(path))
        if not (path / MANIFEST).is_file():
            raise BundleError(f"{path} is not a bundle (no {MANIFEST}); make one with lpnsr-export")
        try:
            manifest = Manifest.from_json((path / MANIFEST).read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise BundleError(f"{path / MANIFEST} is damaged; export the bundle again") from error
        except OSError as error:
            raise BundleError(f"cannot read {path / MANIFEST}: {error.strerror}") from error
        bundle = cls(path, manifest)
        for name, digest in manifest.files.items():
            bundle.check(name, digest)
        graphs = [name for graph in manifest.graphs for name in graph.files]
        unlisted = [name for name in graphs if name not in manifest.files]
        if unlisted or not manifest.graphs:
            raise BundleError(f"{path / MANIFEST} lists no hash for its graphs; export it again")
        for name in graphs:
            bundle._check_references(name)
        return bundle

    def graph_path(self, graph: Graph) -> Path:
        """Path of the ONNX file of an unrolled `graph`."""
        return self.path / graph.file

    def stage_path(self, stage: StageGraph) -> Path:
        """Path of the ONNX file of a stage."""
        return self.path / stage.file

    def sources(self, file: str) -> dict[str, str]:
        """File name -> SHA-256 of an ONNX file of the bundle and of those that it reads."""
        here = PurePosixPath(file).parent
        names = [file, *(str(here / name) for name in references(self.path / file))]
        return {name: self.manifest.files[name] for name in dict.fromkeys(names)}

    def check(self, name: str, digest: str) -> Path:
        """Path of the file `name`, once it is known to be what it should be.

        Raises:
            BundleError: it is missing, its SHA-256 is not `digest`, or it is not in the bundle.
        """
        relative = PurePosixPath(name)
        inside = (self.path / name).resolve().is_relative_to(self.path.resolve())
        if relative.is_absolute() or ".." in relative.parts or "\\" in name or not inside:
            raise BundleError(f"{self.path / MANIFEST} names a file outside the bundle: {name}")
        file = self.path / name
        if not file.is_file():
            raise BundleError(f"{file} is missing; export the bundle again or copy it whole")
        if sha256(file) != digest:
            raise BundleError(
                f"{file} does not match its SHA-256 in {MANIFEST}; "
                "export the bundle again or copy it whole"
            )
        return file

    def _check_references(self, graph: str) -> None:
        """Refuse a graph whose weights are to be read from elsewhere than the checked files."""
        path = self.path / graph
        try:
            found = references(path)
        except DamagedError as error:
            raise BundleError(f"{path} is damaged ({error}); export the bundle again") from error
        here = PurePosixPath(graph).parent
        for name in found:
            if str(here / name) not in self.manifest.files:
                raise BundleError(
                    f"{path} reads a file that {MANIFEST} does not list: {name}; "
                    "export the bundle again"
                )


def locate(path: Path) -> Path:
    """The folder of a bundle, which may be called by its name: the cache's, or the built-in one.

    A folder of that name takes precedence over a bundle in the cache.
    """
    if (path / MANIFEST).is_file() or len(path.parts) != 1:
        return path
    with suppress(RuntimeError):  # the user has no home folder
        kept = bundle_folder(path.name)
        if (kept / MANIFEST).is_file():
            return kept
    return BUILTIN if path.name == BUILTIN_NAME else path


def shapes(manifest: Manifest, graph: Graph) -> dict[str, tuple[int, ...]]:
    """Input and output name -> shape that the manifest promises for `graph`.

    The noise is not among the inputs of a staged graph: it goes into the updates between them.
    """
    (height, width), scale = graph.tile, manifest.scale
    lr, noise = manifest.inputs
    promised: dict[str, tuple[int, ...]] = {lr: (graph.batch, 3, height, width)}
    if manifest.draws and not graph.stages:
        promised[noise] = (manifest.draws, *latent_shape(manifest, graph))
    promised |= graph.given
    return promised | {manifest.output: (graph.batch, 3, scale * height, scale * width)}


def inputs(
    manifest: Manifest, lr: np.ndarray, noise: np.ndarray, given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """A chain's inputs by name: the picture, the noise if it draws any, and what is given."""
    name, noise_name = manifest.inputs
    return {name: lr, **({noise_name: noise} if manifest.draws else {}), **given}


def latent_shape(manifest: Manifest, graph: Graph) -> tuple[int, int, int, int]:
    """Shape of a latent, and of one draw of noise."""
    height, width = (int(side * manifest.latent_side) for side in graph.tile)
    return graph.batch, manifest.latent_channels, height, width


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
