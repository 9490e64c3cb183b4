"""Engines on a GPU against their ONNX graphs on the CPU, on fresh random input.

The runtime itself runs the engines, so that what is compared is what users get: a whole chain, with
the fused kernel and the CUDA graph. This is why polygraphy's comparator is not used: its TensorRT
runner runs single engines by means of its own, its ONNX Runtime runner does not find the weights of
a graph that `emulate` has made, and its PSNR is against the largest value, not a fixed range.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lpnsr.export.check.emulate import emulate
from lpnsr.export.check.parity import label
from lpnsr.export.check.run_onnx import run_onnxruntime
from lpnsr.export.check.verify import Parity, ParityError, compare
from lpnsr.runtime.backends import staged
from lpnsr.runtime.backends.session import Backend
from lpnsr.runtime.bundle import Bundle, shapes
from lpnsr.runtime.manifest import Graph, StageGraph

ENOUGH, MARGIN = 60.0, 6.0
"""PSNR in dB that always suffices, and how far an engine may be below what its graph has to the
eager chain. Two graphs that round alike but elsewhere differ by 3 dB more than each from the
chain."""


def check_engines(bundle: Bundle, graph: Graph, backend: Backend) -> Parity:
    """Compare what engines and ONNX Runtime make of the same tile.

    Args:
        bundle: of the graph.
        graph: with its engines.
        backend: runs them.

    Returns:
        what `lpnsr.export.check.verify.compare` finds.

    Raises:
        ParityError: they do not agree.
        EngineMissingError: ONNX Runtime is not installed.
        BackendError: the engines cannot be run.
    """
    rng = np.random.default_rng(secrets.randbelow(2**32))
    whole = dataclasses.replace(graph, stages=())
    lr_shape, noise_shape, _ = shapes(bundle.manifest, whole).values()
    lr = rng.uniform(-1, 1, lr_shape).astype(np.float32)
    noise = rng.standard_normal(noise_shape).astype(np.float32)
    session = backend.load(bundle, graph)
    figures = compare(session.run(lr, noise), _expected(bundle, graph, lr, noise))
    own = graph.parity[label(bundle.manifest.precision)]
    least = min(ENOUGH, own["sr_psnr"] - MARGIN)
    if not figures["psnr"] >= least:
        raise ParityError(
            f"on the GPU the engines of {graph.files[0]} are {figures['psnr']:.1f} dB from their "
            f"graph, less than {least:.1f} dB: the builder has made a mistake; try another version"
        )
    return figures


def _expected(bundle: Bundle, graph: Graph, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The output of the graph, rounded where it says so."""
    narrow = set(bundle.manifest.precision.values()) != {"fp32"}
    runs = {}
    for file in graph.files:
        model = ir.load(bundle.path / file)
        runs[file] = run_onnxruntime(emulate(model) if narrow else model, bundle.path)
    manifest = bundle.manifest
    if not graph.stages:
        return runs[graph.file](dict(zip(manifest.inputs, (lr, noise), strict=True)))[
            manifest.output
        ]

    def compute(stage: StageGraph, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        found = runs[stage.file](dict(zip(stage.inputs, inputs, strict=True)))
        return [found[name] for name in stage.outputs]

    return staged.upscale(graph.stages, manifest.steps, compute, {"lr": lr}, noise)[manifest.output]
