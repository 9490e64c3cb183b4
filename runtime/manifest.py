"""The manifest of a bundle: what it holds, and how that is read, upgraded and checked."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from lpnsr.kernels.recurrence import DENOISE, END, GUIDE, NOISE, PHASES, START, Step

FORMAT = 4
READABLE = (2, 3, 4)
"""Format 3 adds the staged topology, format 4 what families differ in, and it calls precisions by
the names in `PRECISIONS`. `_upgrade` fills in what an older manifest leaves to be known."""

PRECISIONS = ("fp32", "fp16", "bf16")
"""What a network is computed in."""

_FORMER = {"float32": "fp32", "f32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""What precisions were called before format 4."""

TOPOLOGIES = ("unrolled", "staged")

MANIFEST = "manifest.json"


class BundleError(ValueError):
    """A bundle is missing, damaged, or does not hold what was asked for."""


@dataclass(frozen=True)
class StageGraph:
    """One network of a staged chain, with an ONNX graph of its own.

    Attributes:
        name: what it is called.
        file: file name inside the bundle.
        inputs: names of the graph's inputs, in order (see `lpnsr.kernels.recurrence`). One that is
            depends on the timestep ends in `step`, (1,) int64, the number of the step from 0.
        outputs: names of its outputs, in order.
        phase: when it is called, one of `lpnsr.kernels.recurrence.PHASES`.
    """

    name: str
    file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    phase: str

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> StageGraph:
        """From what `asdict` and JSON have made of it.

        Raises:
            LookupError: a field is missing.
            TypeError: a field is not of its type.
        """
        inputs, outputs = tuple(fields["inputs"]), tuple(fields["outputs"])
        return cls(fields["name"], fields["file"], inputs, outputs, fields["phase"])


@dataclass(frozen=True)
class Graph:
    """The chain for one tile and batch shape.

    Attributes:
        file: file name of the static ONNX graph of the whole chain; empty in a staged bundle.
        tile: (height, width) of the input in pixels.
        batch: number of tiles the graph takes at once.
        parity: precision -> figures measured at export, the graph computed in it against eager
            PyTorch in float32, on random input: "fp32", and "bf16" where an engine reduced it to
            that; for a graph with narrow stages, "fp16", "bf16" or "mixed", as it says itself. With
            Winograd convolutions, the figures of "fp32" begin with `winograd_`.
        precisions: what an engine that reduces precision itself may compute in.
        stage_parity: stage -> `worst` and `mean` absolute error and `psnr` (dB, against a range of
            2), and, if fp16 was considered, `largest`, the largest magnitude it has to hold;
            measured for graphs with narrow stages, on equal inputs.
        stages: the networks of a staged chain, each with its own graph.
        picture: stages whose outputs are made for each tile of a picture before all else, and
            averaged over them.
        given: these outputs, name -> shape; further inputs of the chain.
    """

    file: str
    tile: tuple[int, int]
    batch: int
    parity: dict[str, dict[str, float]]
    precisions: tuple[str, ...] = ("fp32",)
    stage_parity: dict[str, dict[str, float]] = field(default_factory=dict)
    stages: tuple[StageGraph, ...] = ()
    picture: tuple[StageGraph, ...] = ()
    given: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all its ONNX files."""
        chain = tuple(stage.file for stage in self.stages) or (self.file,)
        return (*chain, *(stage.file for stage in self.picture))

    @property
    def pixels(self) -> int:
        """Input pixels that it takes at once."""
        return self.batch * self.tile[0] * self.tile[1]

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Graph:
        """From what `asdict` and JSON have made of it.

        Raises:
            LookupError: a field is missing.
            TypeError: a field is not of its type.
        """
        height, width = fields["tile"]
        stages, picture = (
            tuple(map(StageGraph.from_fields, fields.get(name, ())))
            for name in ("stages", "picture")
        )
        return cls(
            fields["file"],
            (int(height), int(width)),
            int(fields["batch"]),
            {_precision(name): figures for name, figures in fields["parity"].items()},
            tuple(map(_precision, fields["precisions"])),
            dict(fields.get("stage_parity", {})),
            stages,
            picture,
            {name: tuple(map(int, shape)) for name, shape in fields.get("given", {}).items()},
        )


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
        latent_channels: channels C of a latent and of the noise.
        latent_side: sides of a latent and of the noise, relative to those of the input.
        draws: number K of noise draws the chain makes, the first of them starts it; without any,
            there is no noise input.
        schedule: the diffusion schedule's settings.
        precision: stage name -> what it is computed in, one of `PRECISIONS`.
        inputs: graph input names, the picture (B, 3, h, w) in [-1, 1] and the noise
            (K, B, C, latent_side·h, latent_side·w).
        precise: pairs of tensors in an unrolled graph. What is between them has near-ties and
            wants float32, whatever an engine reduces the rest to; there a graph may be cut.
        output: graph output name, (B, 3, scale·h, scale·w) in [-1, 1].
        variant: which variant of the preset it is: `steps`, the length of the chain, `noise`, the
            kind that each step but the last adds ("predicted", "gaussian", "zero"), and `start`,
            where the chain starts from ("bicubic", "swinir").
        graphs: one entry per tile and batch shape.
        topology: one of `TOPOLOGIES`.
        steps: of a staged chain, the update that starts it, then one for each step.
        files: file name -> SHA-256 of every file but the manifest and the engines.
        versions: the packages that made the bundle and measured `parity`.
        engines: what was built of the graphs.
        color_limit: of the differences that the colour fix corrects, see `color.correct`; None for
            no limit.
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
    variant: dict[str, Any] = field(default_factory=dict)
    engines: tuple[Engine, ...] = ()
    topology: str = "unrolled"
    steps: tuple[Step, ...] = ()
    latent_side: float = 1.0
    precise: tuple[tuple[str, str], ...] = ()
    color_limit: float | None = None
    format: int = field(default=FORMAT)

    @property
    def looks_ahead(self) -> bool:
        """Whether some stage is run for a whole picture first, or nothing is drawn."""
        return not self.draws or any(graph.picture for graph in self.graphs)

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
            if fields["format"] not in READABLE:
                raise BundleError(
                    f"bundle format {fields['format']} is not the supported {FORMAT}; "
                    "export the bundle again with this version of lpnsr-export"
                )
            if fields["format"] < FORMAT:
                _upgrade(fields)
            graphs = tuple(map(Graph.from_fields, fields.pop("graphs")))
            steps = tuple(Step(**step) for step in fields.pop("steps", ()))
            fields |= {"inputs": tuple(fields["inputs"]), "files": dict(fields["files"])}
            engines = tuple(
                Engine(
                    **{**e, "gpus": tuple(e["gpus"]), "sources": dict(e["sources"])},
                )
                for e in fields.pop("engines", ())
            )
            precise = tuple((str(start), str(end)) for start, end in fields.pop("precise", ()))
            fields |= {"steps": steps, "engines": engines, "precise": precise, "format": FORMAT}
            fields["precision"] = {k: _precision(v) for k, v in fields["precision"].items()}
            manifest = cls(graphs=graphs, **fields)
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
        stages = [stage for g in self.graphs for stage in (*g.stages, *g.picture)]
        texts += [name for g in self.graphs for name in (g.file, *g.files, *g.given)]
        texts += [text for s in stages for text in (s.name, s.phase, *s.inputs, *s.outputs)]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a name is not a text")
        if self.topology not in TOPOLOGIES:
            raise ValueError("there is no such topology")
        for graph in self.graphs:
            if bool(graph.stages) != (self.topology == "staged"):
                raise ValueError("the stages do not suit the topology")
            if {*graph.given} != {name for stage in graph.picture for name in stage.outputs}:
                raise ValueError("nothing gives one of the inputs")
            if graph.stages:
                _check_stages(graph, len(self.steps))
            if any(side * self.latent_side % 1 for side in graph.tile):
                raise ValueError("a tile is not a whole number of latent values")
        if not set(self.precision.values()) <= set(PRECISIONS):
            raise ValueError("there is no such precision")
        if len(self.inputs) != 2:
            raise ValueError("there are two inputs")
        if type(self.draws) is not int or not 0 <= self.draws < 2**20:
            raise ValueError("the number of draws is out of range")
        if not 0 < self.latent_side < 2**20:
            raise ValueError("the side of a latent is out of range")
        if self.color_limit is not None and not 0 < self.color_limit <= 2:
            raise ValueError("the limit of colours is out of range")
        counts = [self.scale, self.latent_channels]
        counts += [number for g in self.graphs for number in (*g.tile, g.batch)]
        if not all(type(count) is int and 0 < count < 2**20 for count in counts):
            raise ValueError("a size is not a positive number")


def _check_stages(graph: Graph, steps: int) -> None:
    """Refuse stages that are not a chain.

    Raises:
        ValueError: one of what they go through is missing, or there is no such phase.
    """
    stages = graph.stages
    phases = {stage.phase for stage in stages}
    denoised = steps > 1
    needed = {START, END, *([DENOISE] if denoised else [])}
    if not steps or not needed <= phases <= set(PHASES):
        raise ValueError("a stage or a step is missing")
    known = {"lr", "step", "state", "scaled", *graph.given}
    for stage in sorted(stages, key=lambda stage: PHASES.index(stage.phase)):
        if not known.issuperset(stage.inputs):
            raise ValueError(f"nothing makes what {stage.name} takes")
        known.update(stage.outputs)
    if not known >= {"y", "sr", *(["x0"] if denoised else [])}:
        raise ValueError("a stage is missing")


def _upgrade(fields: dict[str, Any]) -> None:
    """Fill in what manifests of formats 2 and 3 leave to be known by name."""
    phases = {
        "pre_upsampler": START,
        "encoder": START,
        "auxiliary": GUIDE,
        "denoiser": DENOISE,
        "noise_predictor": NOISE,
        "decoder": END,
    }
    for graph in fields["graphs"]:
        for stage in graph.get("stages", ()):
            stage["phase"] = phases[stage["name"]]
    if "quantizer" in fields["precision"]:
        fields["precise"] = [("x_0", "quantized")]


def _precision(name: str) -> str:
    """Today's name of a precision."""
    return _FORMER.get(name, name)
