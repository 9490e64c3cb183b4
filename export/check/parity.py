"""The graphs of a bundle against the eager chain: at export, and again whenever asked."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lpnsr.export.check.calls import Call, record
from lpnsr.export.check.emulate import emulate, emulate_bf16
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
    tensors,
)
from lpnsr.export.graph.builder import IR_VERSION
from lpnsr.export.graph.unroll import LATENT, ends, show
from lpnsr.kernels.operators import library
from lpnsr.models.categories import Category
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.variants import vary
from lpnsr.models.weights import find_weights, load_chain
from lpnsr.runtime.backends import staged as runtime
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import Graph, StageGraph

FIRST = np.array([0])
"""Number of the first step."""

EMULATED = "emulated"
"""Among figures: that the engine's rounding was emulated."""


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
        show(model, chain)
    name = label(types)
    # Not kept: an engine holds as much as the weights, or more, and each stage gets one of its own.
    is_fp32 = name == "fp32"
    run = _runs(chain, graph, models, folder, narrow=not is_fp32)
    parity = measure(chain, run, values, same_codes=is_fp32)
    if is_fp32:
        check(parity, preset.tolerance)
        if library():
            run = _runs(chain, graph, models, folder, winograd=True)
            found = measure(chain, run, values, same_codes=True)
            check(found, preset.tolerance)
            parity |= {f"winograd_{figure}": value for figure, value in found.items()}
        return dataclasses.replace(graph, parity={name: {**parity, "seed": seed}})
    calls = record(chain, *tensors(values))
    stages = measure_stages(calls, graph, models, folder)
    last = chain.stages[-1].name
    if types[last] != "fp32":
        parity["decoder_psnr"] = stages[last]["psnr"]
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
    chain: Chain,
    graph: Graph,
    models: Mapping[str, ir.Model],
    folder: Path,
    narrow: bool = False,
    winograd: bool = False,
) -> Run:
    """Runs the whole chain; gives `sr`, `x_0` and categories."""
    runs = {
        name: run_onnxruntime(emulate(model) if narrow else model, folder, winograd)
        for name, model in models.items()
    }
    if not graph.stages:
        return _given(graph, runs, runs[graph.file])

    def run(values: Values) -> Values:
        more = {}

        def compute(stage: StageGraph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
            found = runs[stage.file](dict(zip(stage.inputs, inputs, strict=True)))
            more.update(found)
            return [found[name] for name in stage.outputs]

        noise = values.get("noise", ())
        found = runtime.upscale(graph.stages, chain.updates(), compute, values, noise)
        return {**more, "sr": found["sr"], LATENT: found["state"]}

    return _given(graph, runs, run)


def _given(graph: Graph, runs: Mapping[str, Run], chain: Run) -> Run:
    """Runs the stages for a picture first, and gives `chain` what they give."""

    def run(values: Values) -> Values:
        given: Values = {}
        for stage in graph.picture:
            given |= runs[stage.file]({name: values[name] for name in stage.inputs})
        return chain({**values, **given})

    return run


def verify_in_bf16(
    chain: Chain,
    preset: Preset,
    graph: Graph,
    model: ir.Model,
    decoder: ir.Model,
    folder: Path,
    emulates: bool,
) -> Graph:
    """Also measure a float32 graph as OpenVINO computes it in bfloat16, on processors that do.

    Args:
        chain: networks with their weights, float32.
        preset: what they are.
        graph: what `verify` has found.
        model: the graph of `unroll`; x_0 becomes one of its outputs.
        decoder: its decoder.
        folder: where files may be written for OpenVINO to read; holds the graph's weights.
        emulates: elsewhere, round as it would.

    Returns:
        `graph` with these figures, and bf16 among its precisions if they are within the limits.
    """
    # A network that sorts tokens does so by counts and places that bfloat16 cannot hold.
    sorts = any(isinstance(module, Category) for module in chain.modules())
    reduces = computes_bf16()
    if sorts or not (reduces or emulates):
        return graph
    seed = int(graph.parity["fp32"]["seed"])
    show(model, chain)
    files = folder / "probe.onnx", folder / "probe_decoder.onnx"
    try:
        for part, file in zip((model, decoder), files, strict=True):
            ir.save(part, file, external_data=f"{file.stem}.bin" if part is decoder else None)
        values = random_input(preset, graph.batch, graph.tile, seed)
        picture = {s.file: run_onnxruntime(folder / s.file) for s in graph.picture}

        def reduced(number: int) -> Run:
            if reduces:
                return run_openvino(files[number], "bf16")
            return run_onnxruntime(emulate_bf16((model, decoder)[number]), folder)

        run = _given(graph, picture, reduced(0))
        found = measure(chain, run, values)
        if chain.codebook:
            shape = preset.shape("state", graph.batch, graph.tile)
            latent = np.random.default_rng(seed).standard_normal(shape, np.float32)
            found |= measure_decoder(chain, reduced(1), latent)
    finally:
        for file in (*files, folder / "probe_decoder.bin"):
            file.unlink(missing_ok=True)
    precisions = ("fp32", "bf16") if accurate_in_bf16(found, preset.tolerance) else ("fp32",)
    how = {} if reduces else {EMULATED: 1}
    parity = graph.parity | {"bf16": {**found, **how, "seed": seed}}
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
    first: dict[str, Call] = {}
    for call in calls:
        first.setdefault(call.stage.name, call)
    files = {stage.name: stage.file for stage in (*graph.stages, *graph.picture)}
    found = {}
    for name, call in first.items():
        stage = call.stage
        file = files.get(stage.graph or name, graph.file)
        takes, gives = (stage.inputs, stage.outputs) if graph.stages else ends(stage)
        whole = models[file].graph
        steps = [value.name for value in whole.inputs if value.name == "step"]
        part = ir.convenience.extract(whole, [*takes, *steps], gives)
        run = run_onnxruntime(emulate(ir.Model(part, ir_version=IR_VERSION)), folder)
        values = [value.numpy() for value in call.inputs.values()]
        results = run({**dict(zip(takes, values, strict=True)), **dict.fromkeys(steps, FIRST)})
        found[name] = compare(
            np.concatenate([results[value].ravel() for value in gives]),
            np.concatenate([value.numpy().ravel() for value in call.outputs]),
        )
    return found
