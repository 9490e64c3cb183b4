"""From preset and weights to a bundle on disk: check, trace, unroll, write, verify, rename."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from math import isinf
from pathlib import Path

import onnx_ir as ir

from lpnsr.export.check.parity import EMULATED, label, verify, verify_in_bf16
from lpnsr.export.check.ranges import settle
from lpnsr.export.check.verify import ParityError
from lpnsr.export.graph.builder import Identity, identity
from lpnsr.export.graph.composing import single
from lpnsr.export.graph.stage_graphs import stage_graphs
from lpnsr.export.graph.trace import trace_stage
from lpnsr.export.graph.unroll import precise_ends, unroll
from lpnsr.export.graph.values import name_of, tensor
from lpnsr.kernels.recurrence import PICTURE
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset
from lpnsr.models.variants import describe
from lpnsr.runtime.bundle import Bundle, sha256
from lpnsr.runtime.manifest import MANIFEST, BundleError, Graph, Manifest

WEIGHTS = "weights.bin"
INLINE_BYTES = 1024
Shape = tuple[int, tuple[int, int]]


def pack(
    chain: Chain,
    preset: Preset,
    shapes: Sequence[Shape],
    target: Path,
    *,
    precision: str = "fp32",
    topology: str = "unrolled",
    emulates_bf16: bool = False,
    force: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Bundle:
    """Export a chain to the bundle `target`, which appears whole or not at all.

    Args:
        chain: networks with their weights.
        preset: what they are.
        shapes: (batch, (height, width)) of each graph; all share one weights file.
        target: folder of the bundle.
        precision: one of `lpnsr.models.roles.PRECISIONS`.
        topology: one of `lpnsr.runtime.manifest.TOPOLOGIES`.
        emulates_bf16: measure a float32 graph in bfloat16 even if this processor has none.
        force: replace a bundle that is there.
        progress: told the name of each stage when it starts; `stages(preset, shapes, precision)`
            lists them.

    Raises:
        BundleError: `target` exists and `force` is not given, or is not a bundle.
        RangeError: float16 cannot hold what a network computes.
        ParityError: a graph does not agree with the eager chain.
        EngineMissingError: ONNX Runtime, which verifies, is not installed.
        OSError: the target cannot be written.
    """
    check_target(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        staging = Path(folder) / "bundle"
        staging.mkdir()
        progress("check ranges")
        types, largest = settle(chain, preset, precision, shapes[0][1])
        exported = _trace_all(chain, preset, types, shapes, topology, progress)
        progress("write")
        _store_weights_once([model for each in exported for model in each.models], staging)
        graphs = []
        for each in exported:
            progress(f"verify {_label(each.graph.batch, each.graph.tile)}")
            verified = _verified(chain, preset, types, largest, staging, each, emulates_bf16)
            graphs.append(verified)
        files = {file.name: sha256(file) for file in sorted(staging.iterdir())}
        manifest = _manifest(preset, types, graphs, files)
        if topology == "staged":
            steps = tuple(chain.updates())
            manifest = dataclasses.replace(manifest, topology=topology, steps=steps)
        (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        if target.exists():
            shutil.move(target, Path(folder) / "replaced")
        staging.rename(target)
    return Bundle(target, manifest)


def check_target(target: Path, force: bool) -> None:
    """See that a bundle can be put at `target`.

    Raises:
        BundleError: it exists and `force` is not given, or it is not a bundle.
    """
    if not target.exists():
        return
    if not (target / MANIFEST).is_file():
        raise BundleError(f"{target} exists and is not a bundle; name another folder")
    if not force:
        raise BundleError(f"{target} exists; add --force to replace it or name another folder")


def stages(preset: Preset, shapes: Sequence[Shape]) -> list[str]:
    """Names of the stages that `pack` goes through, in order."""
    labels = [_label(*shape) for shape in shapes]
    traces = [f"trace {stage.name} {label}" for label in labels for stage in preset.stages]
    return ["check ranges", *traces, "write", *(f"verify {label}" for label in labels)]


def _label(batch: int, tile: tuple[int, int]) -> str:
    return f"{tile[0]}x{tile[1]}, batch {batch}"


@dataclasses.dataclass(frozen=True)
class _Exported:
    """One shape's chain: its ONNX graphs in the order of `graph.files`, and its decoder alone."""

    graph: Graph
    models: list[ir.Model]
    decoder: ir.Model


def _trace_all(
    chain: Chain,
    preset: Preset,
    types: Mapping[str, str],
    shapes: Sequence[Shape],
    topology: str,
    progress: Callable[[str], None],
) -> list[_Exported]:
    exported = []
    for batch, tile in shapes:
        traced = {}
        for stage, precision in types.items():
            progress(f"trace {stage} {_label(batch, tile)}")
            traced[stage] = trace_stage(chain, preset, stage, batch, tile, precision)
        graph, models = _compose(chain, preset, traced, batch, tile, topology)
        last = chain.stages[-1].name
        decoder = single(chain, preset, traced[last], last)
        exported.append(_Exported(graph, models, decoder))
    return exported


def _compose(
    chain: Chain,
    preset: Preset,
    traced: Mapping[str, ir.Model],
    batch: int,
    tile: tuple[int, int],
    topology: str,
) -> tuple[Graph, list[ir.Model]]:
    """What the manifest says of a graph, and its models in the order of its files."""
    name = f"{preset.name}_{tile[0]}x{tile[1]}_b{batch}"
    own = {
        stage.name: traced[stage.name]
        for stage in chain.stages
        if topology == "staged" or stage.phase == PICTURE
    }
    parts = stage_graphs(chain, preset, own, batch, tile, name)
    stages = tuple(stage for stage in parts if stage.phase != PICTURE)
    picture = tuple(stage for stage in parts if stage.phase == PICTURE)
    given = {value: preset.shape(value, batch, tile) for s in picture for value in s.outputs}
    models = [parts[stage] for stage in (*stages, *picture)]
    if not stages:
        models.insert(0, unroll(chain, preset, traced, batch, tile))
    file = "" if stages else f"{name}.onnx"
    return Graph(file, tile, batch, {}, stages=stages, picture=picture, given=given), models


def _verified(
    chain: Chain,
    preset: Preset,
    types: Mapping[str, str],
    largest: Mapping[str, float],
    folder: Path,
    exported: _Exported,
    emulates_bf16: bool,
) -> Graph:
    """Write the graph and verify it."""
    graph, models = exported.graph, exported.models
    for name, model in zip(graph.files, models, strict=True):
        ir.save(model, folder / name)
    try:
        graph = verify(chain, preset, types, folder, graph)
    except ParityError as error:
        raise ParityError(f"{error}; no bundle was written") from error
    stages = {stage: dict(figures) for stage, figures in graph.stage_parity.items()}
    for stage, value in largest.items():
        stages[stage]["largest"] = value
    graph = dataclasses.replace(graph, stage_parity=stages)
    if label(types) == "fp32" and not graph.stages:
        parts = models[0], exported.decoder
        graph = verify_in_bf16(chain, preset, graph, *parts, folder, emulates_bf16)
    return graph


def _store_weights_once(models: Sequence[ir.Model], folder: Path) -> None:
    """Move the larger initializers to one file, equal ones of all graphs to one place."""
    users: dict[Identity, list[ir.Value]] = {}
    for model in models:
        for value in model.graph.initializers.values():
            if tensor(value).nbytes > INLINE_BYTES:
                users.setdefault(identity(tensor(value)), []).append(value)
    # Wider types first: packed densely, every tensor is then aligned to its own type.
    groups = sorted(users.values(), key=lambda values: -tensor(values[0]).dtype.itemsize)
    external = ir.external_data.convert_tensors_to_external(
        [tensor(values[0]) for values in groups], folder, WEIGHTS
    )
    for values, stored in zip(groups, external, strict=True):
        for value in values:
            value.const_value = ir.ExternalTensor(
                stored.location,
                stored.offset,
                stored.length,
                stored.dtype,
                shape=stored.shape,
                name=name_of(value),
                base_dir=stored.base_dir,
            )


def _manifest(
    preset: Preset, types: dict[str, str], graphs: Sequence[Graph], files: dict[str, str]
) -> Manifest:
    schedule = dict(vars(preset.schedule))  # all schedules are dataclasses of plain values
    schedule.pop("noise_kinds", None)  # `variant` tells them
    packages = ["lpnsr", "torch", "onnx-ir", "onnxruntime"]
    # Measured as an engine reduces it.
    if any(len(g.parity) > 1 and EMULATED not in g.parity["bf16"] for g in graphs):
        packages.append("openvino")
    return Manifest(
        preset=preset.name,
        scale=preset.scale,
        latent_channels=preset.latent_channels,
        latent_side=preset.latent_side,
        color_limit=None if isinf(preset.color_limit) else preset.color_limit,
        precise=precise_ends(preset),
        draws=preset.draws,
        schedule=schedule,
        precision=types,
        graphs=tuple(graphs),
        files=files,
        versions={name: version(name) for name in packages},
        variant=describe(preset),
    )
