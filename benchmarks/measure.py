"""One model of a workload: exported, and run in every way that this machine has."""

from __future__ import annotations

import functools
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from lpnsr.benchmarks import count, deterministic, isolated
from lpnsr.benchmarks.methods import EAGER, Methods, without_rewrites
from lpnsr.benchmarks.timing import Row, Run, Timer, seconds
from lpnsr.benchmarks.workloads import Model, Workload
from lpnsr.export.check.verify import random_input, tensors
from lpnsr.export.pack import pack
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset
from lpnsr.models.weights import find_weights, load_chain
from lpnsr.runtime.backends.registry import BACKENDS
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import MANIFEST


@dataclass
class Result:
    """What one model of a workload took.

    Attributes:
        label: of the model.
        weights: where they are from.
        parameters: of all networks.
        constants: numbers that the exported graph stores.
        graph_macs: multiply-accumulates of the exported graph.
        row: seconds and PSNR of each method.
        build: method -> seconds to make it ready.
        export: seconds of tracing, unrolling and verifying; None if the bundle was there.
        starts: method -> seconds of a first and a second start up to the first picture, and the
            peak of host and device memory in bytes.
        missing: method -> why it is not there.
        parity: precision -> what the export measured.
        in_turns: whether methods took turns; else each ran alone, one after the other.
    """

    label: str
    weights: str
    parameters: int
    constants: int
    graph_macs: int
    row: Row
    build: dict[str, float]
    export: float | None
    starts: dict[str, dict[str, float | None]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    parity: dict[str, dict[str, float]] = field(default_factory=dict)
    in_turns: bool = True

    @classmethod
    def from_json(cls, fields: dict) -> Result:
        """The result that `dataclasses.asdict` made `fields` of."""
        return cls(**{**fields, "row": Row(**fields["row"])})


@dataclass(frozen=True)
class MeasureOptions:
    """How to measure.

    Attributes:
        runs: timed rounds at least, after one to warm up.
        settled: largest spread of the times to stop at, see `Timer`.
        weights: folder with official checkpoints.
        bundles: folder in which exported bundles are kept, and found again.
        bundle: one that is there, whose first graph has the workload's shape.
        starts: also measures starts in processes of their own.
        compiles: also measures `torch.compile`, which takes minutes to compile.
        alone: methods run one after the other instead of in turns, so that memory holds one engine
            at a time.
    """

    runs: int = 5
    settled: float = math.inf
    weights: Path | None = None
    bundles: Path | None = None
    bundle: Path | None = None
    starts: bool = True
    compiles: bool = False
    alone: bool = False


def build_chain(preset: Preset, folder: Path | None) -> tuple[Chain, str]:
    """The chain, and in words where its weights are from.

    Raises:
        CheckpointError: a file is missing or of another network.
    """
    if folder or preset.weights:
        chain = load_chain(preset, find_weights(preset, folder))
        return chain, "given weights" if folder else "its own weights"
    chain = preset.build()
    deterministic.fill(chain)
    chain.prepare()
    return chain, "deterministic weights, which do not affect speed"


def measure(model: Model, workload: Workload, options: MeasureOptions) -> Result:
    """Export, run in turns, then start anew in processes of their own.

    Raises:
        ParityError: the export does not agree with eager PyTorch.
        CheckpointError: a checkpoint is missing or of another network.
    """
    preset = model.build()
    chain, origin = build_chain(preset, options.weights)
    shape = workload.batch, workload.size
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = options.bundles or folder
        key = f"{model.key}_{shape[1][0]}x{shape[1][1]}_b{shape[0]}"
        if options.bundle:  # a copy, as engines may be added
            shutil.copytree(options.bundle, kept / key)
        bundle, export = _exported(chain, preset, shape, kept / key)
        traced = None
        if workload.split:
            with without_rewrites():
                traced, _ = _exported(chain, preset, shape, kept / f"{key}_traced")

        @functools.cache
        def mixed(topology: str) -> Bundle:
            here, _ = build_chain(preset, options.weights)  # the first is on the GPU, or gone
            target = kept / f"{key}_mixed_{topology}"
            return _exported(here, preset, shape, target, "mixed", topology)[0]

        values = random_input(preset, *shape, seed=0)
        lr, noise = tensors(values)
        inputs = lr.numpy(), noise.numpy()
        row = Row(model.label, 0)
        timer = Timer(row, options.runs, options.settled)

        def alone(name: str, run: Run) -> None:
            _say(f"{model.label}: {name}")
            timer.time({name: run})

        methods = Methods(use=alone if options.alone else None)
        with own_cache(folder / "cache"):
            methods.add_eager(chain, *inputs, options.compiles)
            device = next(chain.parameters()).device
            row.macs = count.eager(functools.partial(chain, lr.to(device), noise.to(device)))
            parameters = sum(parameter.numel() for parameter in chain.parameters())
            if options.starts:
                torch.save(chain, folder / "chain.pt")
            del chain  # methods that take turns hold it, those that run alone need its memory
            methods.add_engines(bundle, *inputs, mixed, traced)
        if methods.runs:
            _say(f"{model.label}: {', '.join(methods.runs)} in turns")
            timer.time(methods.runs)
        graph = bundle.graph_path(bundle.manifest.graphs[0])
        graph_macs, constants = count.graph(graph)
        for name, (_, engine, _) in methods.engines.items():
            if name in row.seconds and engine in BACKENDS and BACKENDS[engine].frugal:
                row.made[name], _ = count.graph(graph, winograd=True)
        result = Result(
            label=model.label,
            weights=origin,
            parameters=parameters,
            constants=constants,
            graph_macs=graph_macs,
            row=row,
            build={name: methods.build[name] for name in row.seconds},
            export=export,
            missing=methods.missing | row.failed,
            parity=bundle.manifest.graphs[0].parity,
            in_turns=not options.alone,
        )
        if options.starts:
            engines = {
                name: methods.engines[name] for name in row.seconds if name in methods.engines
            }
            del methods  # so that each process has the memory for itself
            result.starts = _starts(engines, workload, folder)
    return result


def _starts(
    engines: dict[str, tuple[Path, str, str]], workload: Workload, folder: Path
) -> dict[str, dict[str, float | None]]:
    """First and second starts, one process at a time."""
    tasks = {EAGER: (folder / "chain.pt", "torch", "fp32"), **engines}
    return {
        name: isolated.twice(*task, workload.size, folder / "starts")
        for name, task in tasks.items()
    }


def _exported(
    chain: Chain,
    preset: Preset,
    shape: tuple[int, tuple[int, int]],
    target: Path,
    precision: str = "fp32",
    topology: str = "unrolled",
) -> tuple[Bundle, float | None]:
    """The bundle, and the seconds of its export if it was not there."""
    if (target / MANIFEST).is_file():
        return Bundle.open(target), None
    _say(f"exporting {target.name}")
    taken = seconds(
        lambda: pack(chain, preset, [shape], target, precision=precision, topology=topology)
    )
    return Bundle.open(target), round(taken, 1)


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    """Engines find nothing compiled before, and leave nothing in the user's cache."""
    before = {name: os.environ.get(name) for name in isolated.CACHES}
    os.environ.update(dict.fromkeys(isolated.CACHES, str(folder)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
