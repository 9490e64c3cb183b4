"""From preset and weights to a bundle on disk: trace, unroll, write, verify, rename."""

from __future__ import annotations

import dataclasses
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lpnsr.export.engines import computes_bf16, run_onnxruntime, run_openvino
from lpnsr.export.graph import Identity, identity
from lpnsr.export.trace import stages_of, trace_stage
from lpnsr.export.unroll import single, unroll
from lpnsr.export.verify import (
    accurate_in_bf16,
    check,
    measure,
    measure_decoder,
    random_input,
)
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset
from lpnsr.models.variants import describe
from lpnsr.runtime.bundle import MANIFEST, Bundle, BundleError, Graph, Manifest, sha256

WEIGHTS = "weights.bin"
INLINE_BYTES = 1024
Shape = tuple[int, tuple[int, int]]


def pack(
    chain: Chain,
    preset: Preset,
    shapes: Sequence[Shape],
    target: Path,
    *,
    force: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Bundle:
    """Export a chain to the bundle `target`, which appears whole or not at all.

    Args:
        chain: networks with their weights.
        preset: what they are.
        shapes: (batch, (height, width)) of each graph; all share one weights file.
        target: folder of the bundle.
        force: replace a bundle that is there.
        progress: told the name of each stage when it starts; `stages(preset, shapes)` lists them.

    Raises:
        BundleError: `target` exists and `force` is not given, or is not a bundle.
        ParityError: a graph does not agree with the eager chain.
        EngineMissingError: ONNX Runtime, which verifies, is not installed.
        OSError: the target cannot be written.
    """
    check_target(target, force)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        staging = Path(folder) / "bundle"
        staging.mkdir()
        exported = _trace_all(chain, preset, shapes, progress)
        progress("write")
        _store_weights_once([each.model for each in exported], staging)
        graphs = []
        for each in exported:
            progress(f"verify {_label(each.batch, each.tile)}")
            ir.save(each.model, staging / each.file)
            parity = _verify(chain, preset, each, staging / each.file)
            del each.model.graph.outputs[1:]
            ir.save(each.model, staging / each.file)
            within = "bf16" in parity and accurate_in_bf16(parity["bf16"], preset.tolerance)
            precisions = ("f32", "bf16") if within else ("f32",)
            graphs.append(Graph(each.file, each.tile, each.batch, parity, precisions))
        files = {file.name: sha256(file) for file in sorted(staging.iterdir())}
        manifest = _manifest(preset, graphs, files)
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
    traces = [f"trace {stage} {label}" for label in labels for stage in stages_of(preset)]
    return [*traces, "write", *(f"verify {label}" for label in labels)]


def _label(batch: int, tile: tuple[int, int]) -> str:
    return f"{tile[0]}x{tile[1]}, batch {batch}"


@dataclasses.dataclass(frozen=True)
class _Exported:
    """One shape's unrolled chain, and its decoder as a graph of its own."""

    file: str
    batch: int
    tile: tuple[int, int]
    model: ir.Model
    decoder: ir.Model


def _trace_all(
    chain: Chain, preset: Preset, shapes: Sequence[Shape], progress: Callable[[str], None]
) -> list[_Exported]:
    exported = []
    for batch, tile in shapes:
        traced = {}
        for stage in stages_of(preset):
            progress(f"trace {stage} {_label(batch, tile)}")
            traced[stage] = trace_stage(chain, preset, stage, batch, tile)
        file = f"{preset.name}_{tile[0]}x{tile[1]}_b{batch}.onnx"
        model = unroll(chain, preset, traced, batch, tile)
        decoder = single(chain, preset, traced["decoder"], "decoder")
        exported.append(_Exported(file, batch, tile, model, decoder))
    return exported


def _verify(
    chain: Chain, preset: Preset, exported: _Exported, file: Path
) -> dict[str, dict[str, float]]:
    """Parity of the graph in `file`, by precision.

    Raises:
        ParityError: it does not agree with the eager chain in float32.
    """
    seed = secrets.randbelow(2**32)
    values = random_input(preset, exported.batch, exported.tile, seed)
    precise = measure(chain, run_onnxruntime(file), values)
    check(precise, preset.tolerance)
    parity = {"f32": {**precise, "seed": seed}}
    # An auxiliary network sorts tokens by counts and places that bfloat16 cannot hold.
    if computes_bf16() and "auxiliary" not in preset.networks:
        reduced = measure(chain, run_openvino(file, "bf16"), values)
        if "quantizer" in stages_of(preset):
            latent = np.random.default_rng(seed).standard_normal(
                (exported.batch, preset.latent_channels, *exported.tile), np.float32
            )
            with tempfile.TemporaryDirectory() as folder:
                decoder = Path(folder) / "decoder.onnx"
                ir.save(exported.decoder, decoder, external_data="decoder.bin")
                reduced |= measure_decoder(chain, run_openvino(decoder, "bf16"), latent)
        parity["bf16"] = {**reduced, "seed": seed}
    return parity


def _store_weights_once(models: Sequence[ir.Model], folder: Path) -> None:
    """Move the larger initializers to one file, equal ones of all graphs to one place."""
    users: dict[Identity, list[ir.Value]] = {}
    for model in models:
        for value in model.graph.initializers.values():
            if value.const_value.nbytes > INLINE_BYTES:
                users.setdefault(identity(value.const_value), []).append(value)
    # Wider types first: packed densely, every tensor is then aligned to its own type.
    groups = sorted(users.values(), key=lambda values: -values[0].const_value.dtype.itemsize)
    external = ir.external_data.convert_tensors_to_external(
        [values[0].const_value for values in groups], folder, WEIGHTS
    )
    for values, tensor in zip(groups, external, strict=True):
        for value in values:
            value.const_value = ir.ExternalTensor(
                tensor.location,
                tensor.offset,
                tensor.length,
                tensor.dtype,
                shape=tensor.shape,
                name=value.name,
                base_dir=tensor.base_dir,
            )


def _manifest(preset: Preset, graphs: Sequence[Graph], files: dict[str, str]) -> Manifest:
    schedule = dataclasses.asdict(preset.schedule)
    del schedule["noise_kinds"]  # `variant` tells them
    return Manifest(
        preset=preset.name,
        scale=preset.scale,
        latent_channels=preset.latent_channels,
        draws=preset.draws,
        schedule=schedule,
        precision=dict.fromkeys(stages_of(preset), "float32"),
        graphs=tuple(graphs),
        files=files,
        versions={name: version(name) for name in ("lpnsr", "torch", "onnx-ir", "onnxruntime")},
        variant=describe(preset),
    )
