"""The bundle: the only thing that passes from export to runtime.

A bundle is a folder with `manifest.json`, one ONNX graph per tile and batch shape, one file with
the weights that all graphs share, and engines, which are graphs that were built for certain GPUs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath

from lpnsr.runtime.onnxfile import DamagedError, references

FORMAT = 2
MANIFEST = "manifest.json"
BUILTIN = Path(__file__).resolve().parent / "builtin"


class BundleError(ValueError):
    """A bundle is missing, damaged, or does not hold what was asked for."""


@dataclass(frozen=True)
class Graph:
    """One static ONNX graph of the whole chain.

    Attributes:
        file: file name inside the bundle.
        tile: (height, width) of the input in pixels.
        batch: number of tiles the graph takes at once.
        parity: precision ("f32", "bf16") -> figures measured at export, the graph computed in it
            against eager PyTorch in float32, on random input.
        precisions: those of them whose figures are within the preset's limits.
    """

    file: str
    tile: tuple[int, int]
    batch: int
    parity: dict[str, dict[str, float]]
    precisions: tuple[str, ...] = ("f32",)


@dataclass(frozen=True)
class Engine:
    """A graph that was built for certain GPUs.

    Attributes:
        file: file name inside the bundle.
        sha256: of the file; checked when the engine is loaded, not when the bundle is opened.
        graph: file name of the ONNX graph that it computes.
        sources: file name -> SHA-256 of what it was built from, the graph and its weights.
        builder: "tensorrt" or "tensorrt-rtx".
        version: of the builder.
        gpus: what it is for, such as "sm_89".
    """

    file: str
    sha256: str
    graph: str
    sources: dict[str, str]
    builder: str
    version: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds; written by export, read by runtime.

    Attributes:
        preset: name of the model preset.
        scale: factor between input and output sides.
        latent_channels: channels C of the noise input; latents have the input's height and width.
        draws: number K of noise draws the chain makes, the first of them starts it.
        schedule: the diffusion schedule's settings.
        precision: stage name -> data type of its arithmetic.
        inputs: graph input names, the picture (B, 3, h, w) in [-1, 1] and the noise
            (K, B, C, h, w).
        output: graph output name, (B, 3, scale·h, scale·w) in [-1, 1].
        variant: which variant of the preset it is: `steps`, the length of the chain, `noise`, the
            kind that each step but the last adds ("predicted", "gaussian", "zero"), and `start`,
            where the chain starts from ("bicubic", "swinir").
        graphs: one entry per tile and batch shape.
        files: file name -> SHA-256 of every file but the manifest and the engines.
        versions: the packages that made the bundle.
        engines: what was built of the graphs.
    """

    preset: str
    scale: int
    latent_channels: int
    draws: int
    schedule: dict[str, float]
    precision: dict[str, str]
    graphs: tuple[Graph, ...]
    files: dict[str, str]
    versions: dict[str, str]
    inputs: tuple[str, str] = ("lr", "noise")
    output: str = "sr"
    variant: dict[str, int | str | list[str]] = field(default_factory=dict)
    engines: tuple[Engine, ...] = ()
    format: int = field(default=FORMAT)

    def to_json(self) -> str:
        """The manifest as an indented JSON document."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse a manifest.

        Raises:
            BundleError: the text is not a manifest of this format.
        """
        try:
            fields = json.loads(text)
            if fields["format"] != FORMAT:
                raise BundleError(
                    f"bundle format {fields['format']} is not the supported {FORMAT}; "
                    "export the bundle again with this version of lpnsr-export"
                )
            graphs = tuple(
                Graph(
                    g["file"],
                    (int(g["tile"][0]), int(g["tile"][1])),
                    int(g["batch"]),
                    dict(g["parity"]),
                    tuple(g["precisions"]),
                )
                for g in fields.pop("graphs")
            )
            fields |= {"inputs": tuple(fields["inputs"]), "files": dict(fields["files"])}
            engines = tuple(
                Engine(
                    **{**e, "gpus": tuple(e["gpus"]), "sources": dict(e["sources"])},
                )
                for e in fields.pop("engines", ())
            )
            manifest = cls(graphs=graphs, engines=engines, **fields)
            manifest._check()
            return manifest
        except BundleError:
            raise
        except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise BundleError(
                f"{MANIFEST} is damaged ({error!r}); export the bundle again"
            ) from error

    def _check(self) -> None:
        """Refuse values that no export writes.

        Raises:
            TypeError: a text is not a text.
            ValueError: a number is out of range.
        """
        texts = [self.preset, self.output, *self.inputs, *self.files, *self.files.values()]
        for engine in self.engines:
            texts += [engine.file, engine.sha256, engine.graph, engine.builder, engine.version]
            texts += [*engine.gpus, *engine.sources, *engine.sources.values()]
        if not all(isinstance(text, str) for text in (*texts, *(g.file for g in self.graphs))):
            raise TypeError("a name is not a text")
        if len(self.inputs) != 2:
            raise ValueError("there are two inputs")
        counts = [self.scale, self.latent_channels, self.draws]
        counts += [number for g in self.graphs for number in (*g.tile, g.batch)]
        if not all(type(count) is int and 0 < count < 2**20 for count in counts):
            raise ValueError("a size is not a positive number")


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose files are known to match their hashes."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the bundle in folder `path` and check every file against its SHA-256.

        Raises:
            BundleError: no bundle there, a file is missing or differs from its hash, or a name in
                the manifest points out of the bundle.
        """
        path = Path(path)
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
        unlisted = [g.file for g in manifest.graphs if g.file not in manifest.files]
        if unlisted or not manifest.graphs:
            raise BundleError(f"{path / MANIFEST} lists no hash for its graphs; export it again")
        for graph in manifest.graphs:
            bundle._check_references(graph)
        return bundle

    def graph_path(self, graph: Graph) -> Path:
        """Where the ONNX file of `graph` lies."""
        return self.path / graph.file

    def sources(self, file: str) -> dict[str, str]:
        """File name -> SHA-256 of an ONNX file of the bundle and of those that it reads."""
        here = PurePosixPath(file).parent
        names = [file, *(str(here / name) for name in references(self.path / file))]
        return {name: self.manifest.files[name] for name in dict.fromkeys(names)}

    def check(self, name: str, digest: str) -> Path:
        """Where the file `name` lies, after a look at whether it is what it should be.

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

    def _check_references(self, graph: Graph) -> None:
        """Refuse a graph whose weights are to be read from elsewhere than the checked files."""
        path = self.graph_path(graph)
        try:
            found = references(path)
        except DamagedError as error:
            raise BundleError(f"{path} is damaged ({error}); export the bundle again") from error
        here = PurePosixPath(graph.file).parent
        for name in found:
            if str(here / name) not in self.manifest.files:
                raise BundleError(
                    f"{path} reads a file that {MANIFEST} does not list: {name}; "
                    "export the bundle again"
                )


def shapes(manifest: Manifest, graph: Graph) -> dict[str, tuple[int, ...]]:
    """Input and output name -> shape that the manifest promises for `graph`."""
    (height, width), scale = graph.tile, manifest.scale
    lr, noise = manifest.inputs
    return {
        lr: (graph.batch, 3, height, width),
        noise: (manifest.draws, graph.batch, manifest.latent_channels, height, width),
        manifest.output: (graph.batch, 3, scale * height, scale * width),
    }


def sha256(file: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
