"""The graphs of a bundle against the eager chain: at export, and again whenever asked."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from lpnsr.export.check.calls import Call, record
from lpnsr.export.check.emulate import emulate
from lpnsr.export.check.run_onnx import Run, Values, computes_bf16, run_onnxruntime, run_openvino
from lpnsr.export.check.verify import (
    Parity,
    accurate_in_bf16,
    check,
    check_narrow,
    compare,
    measure,
    measure_decoder,
    random_input,
)
from lpnsr.export.graph import stage_graphs
from lpnsr.export.graph.builder import IR_VERSION
from lpnsr.export.graph.stage_graphs import step_constants
from lpnsr.export.graph.trace import STAGES
from lpnsr.export.graph.unroll import LATENT, boundaries, show
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.variants import vary
from lpnsr.models.weights import find_weights, load_chain
from lpnsr.runtime.backends import staged as runtime
from lpnsr.runtime.bundle import Bundle, Graph, Stage

FIRST = np.array([0])
"""Number of the first step."""


def verify(
    chain: Chain, preset: Preset, types: Mapping[str, str], folder: Path, graph: Graph
) -> Graph:
    """Run the graph, or the graphs of its stages, and the eager chain on fresh random input.

    A graph with narrow stages is run as `emulate` makes it, whole and stage by stage.

    Args:
        chain: networks with their weights, float32.
        preset: what they are.
        types: stage -> precision of the graph's arithmetic.
        folder: of the bundle.
        graph: one of its graphs.

    Returns:
        `graph` with the figures that were found.

    Raises:
        ParityError: a figure is out of tolerance.
        EngineMissingError: ONNX Runtime is not installed.
    """
    seed = secrets.randbelow(2**32)
    values = random_input(preset, graph.batch, graph.tile, seed)
    models = {name: ir.load(folder / name) for name in graph.files}
    for model in models.values():
        show(model)
    name = label(types)
    run = _runs(chain, graph, models, folder, narrow=name != "fp32")
    parity = measure(chain, run, values)
    if name == "fp32":
        check(parity, preset.tolerance)
        return dataclasses.replace(graph, parity={name: {**parity, "seed": seed}})
    lr, noise = (torch.from_numpy(values[name]) for name in ("lr", "noise"))
    stages = measure_stages(record(chain, preset, lr, noise), graph, models, folder)
    if types["decoder"] != "fp32":
        parity["decoder_psnr"] = stages["decoder"]["psnr"]
    check_narrow(parity, types, preset.tolerance)
    return dataclasses.replace(graph, parity={name: {**parity, "seed": seed}}, stage_parity=stages)


def verify_bundle(bundle: Bundle, folder: Path | None, given: Mapping[str, Path | None]) -> Bundle:
    """Verify all graphs of a bundle anew, on other random input.

    The reference is eager PyTorch in float32, so it takes the checkpoints and not the bundle alone:
    what an export once measured would say nothing of the weights that are in the bundle now.

    Args:
        bundle: what to verify.
        folder: of the checkpoints; by default those that come with the package.
        given: checkpoints named one by one, by role.

    Returns:
        the bundle with the figures that were found; its files stay as they are.

    Raises:
        PresetError: this version has no such preset.
        CheckpointError: a checkpoint is missing or of another network.
        ParityError: a figure is out of tolerance.
        EngineMissingError: ONNX Runtime is not installed.
    """
    manifest = bundle.manifest
    preset = vary(get_preset(manifest.preset), **manifest.variant)
    chain = load_chain(preset, find_weights(preset, folder, given))
    graphs = [verify(chain, preset, manifest.precision, bundle.path, g) for g in manifest.graphs]
    return dataclasses.replace(bundle, manifest=dataclasses.replace(manifest, graphs=tuple(graphs)))


def _runs(
    chain: Chain, graph: Graph, models: Mapping[str, ir.Model], folder: Path, narrow: bool
) -> Run:
    """Runs the whole chain; gives `sr`, `x_0` and categories."""
    runs = {
        name: run_onnxruntime(emulate(model) if narrow else model, folder)
        for name, model in models.items()
    }
    if not graph.stages:
        return runs[graph.file]

    def run(values: Values) -> Values:
        more = {}

        def compute(stage: Stage, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = runs[stage.file](dict(zip(stage.inputs, inputs, strict=True)))
            more.update(found)
            return [found[name] for name in stage.outputs]

        steps = step_constants(chain)
        found = runtime.upscale(graph.stages, steps, compute, values["lr"], values["noise"])
        return {**more, "sr": found["sr"], LATENT: found["state"]}

    return run


def verify_in_openvino(
    chain: Chain, preset: Preset, graph: Graph, model: ir.Model, decoder: ir.Model, folder: Path
) -> Graph:
    """Also measure a float32 graph as OpenVINO computes it in bfloat16, on processors that do.

    Args:
        chain: networks with their weights, float32.
        preset: what they are.
        graph: what `verify` has found.
        model: the graph of `unroll`; x_0 becomes one of its outputs.
        decoder: its decoder.
        folder: where files may be written for OpenVINO to read; holds the graph's weights.

    Returns:
        `graph` with these figures, and bf16 among its precisions if they are within the limits.
    """
    # An auxiliary network sorts tokens by counts and places that bfloat16 cannot hold.
    if not computes_bf16() or "auxiliary" in preset.networks:
        return graph
    seed = int(graph.parity["fp32"]["seed"])
    show(model)
    files = folder / "probe.onnx", folder / "probe_decoder.onnx"
    try:
        for part, file in zip((model, decoder), files, strict=True):
            ir.save(part, file, external_data=f"{file.stem}.bin" if part is decoder else None)
        values = random_input(preset, graph.batch, graph.tile, seed)
        found = measure(chain, run_openvino(files[0], "bf16"), values)
        if "autoencoder" in preset.networks:
            shape = (graph.batch, preset.latent_channels, *graph.tile)
            latent = np.random.default_rng(seed).standard_normal(shape, np.float32)
            found |= measure_decoder(chain, run_openvino(files[1], "bf16"), latent)
    finally:
        for file in (*files, folder / "probe_decoder.bin"):
            file.unlink(missing_ok=True)
    precisions = ("fp32", "bf16") if accurate_in_bf16(found, preset.tolerance) else ("fp32",)
    parity = graph.parity | {"bf16": {**found, "seed": seed}}
    return dataclasses.replace(graph, parity=parity, precisions=precisions)


def label(types: Mapping[str, str]) -> str:
    """What the precisions of all stages together are called: "fp32", "fp16", "bf16" or "mixed"."""
    narrow = set(types.values()) - {"fp32"}
    return "mixed" if len(narrow) > 1 else narrow.pop() if narrow else "fp32"


def measure_stages(
    calls: Sequence[Call], graph: Graph, models: Mapping[str, ir.Model], folder: Path
) -> dict[str, Parity]:
    """Each stage's first call on equal inputs: stage -> what `compare` finds.

    Args:
        calls: of the eager chain.
        graph: unrolled or staged.
        models: its ONNX graphs by file name.
        folder: of their weights.
    """
    first = {call.stage: call for call in reversed(calls)}
    stages = [stage for stage in STAGES if stage in first]
    ends = stage_graphs.boundaries(stages) if graph.stages else boundaries(stages)
    files = {stage.name: stage.file for stage in graph.stages}
    found = {}
    for stage, (source, result) in ends.items():
        own = "decoder" if stage == "quantizer" else stage
        whole = models[files.get(own, graph.file)].graph
        steps = [value.name for value in whole.inputs if value.name == "step"]
        part = ir.convenience.extract(whole, [source, *steps], [result])
        run = run_onnxruntime(emulate(ir.Model(part, ir_version=IR_VERSION)), folder)
        values = {source: first[stage].inputs[0].numpy(), **{name: FIRST for name in steps}}
        found[stage] = compare(run(values)[result], first[stage].output.numpy())
    return found
