"""Each stage in PyTorch, ONNX Runtime and OpenVINO, on one tile.

All engines get the same input and take turns. The graphs are those that `lpnsr-export` makes the
chain of.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from tqdm import tqdm

from lpnsr.benchmarks import count, machine, plots
from lpnsr.benchmarks.count import calls_of
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.measure import build_chain
from lpnsr.benchmarks.methods import EAGER
from lpnsr.benchmarks.timing import WITHIN, Row, Run, spread, time_in_turns, times_as_fast
from lpnsr.export.check.calls import Call, record
from lpnsr.export.check.run_onnx import computes_bf16, run_onnxruntime, run_openvino
from lpnsr.export.check.verify import random_input, tensors
from lpnsr.export.graph.composing import single
from lpnsr.export.graph.trace import trace_stage
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, get_preset
from lpnsr.runtime.backends.registry import BACKENDS

WINOGRAD = "onnxruntime-winograd"
ENGINES = {
    "ONNX Runtime fp32": ("onnxruntime", "fp32"),
    "ONNX Runtime Winograd fp32": ("onnxruntime-winograd", "fp32"),
    "OpenVINO fp32": ("openvino", "fp32"),
    "OpenVINO bf16": ("openvino", "bf16"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench stages`."""
    add = parser.add_argument
    add("--preset", default="lpnsr-tiny", help="model (default: the built-in, lpnsr-tiny)")
    add("--weights", type=Path, help="folder with checkpoints (default: deterministic weights)")
    add("--tile", type=int, default=64, help="side of the tile in input pixels (default: 64)")
    add("--runs", type=int, default=5, help="timed runs of each engine (default: 5)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")
    add("--plot", type=Path, metavar="FILE", help="draw stacked bars there, a .png")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    preset = get_preset(args.preset)
    chain, origin = build_chain(preset, args.weights)
    engines = {name: engine for name, engine in ENGINES.items() if _is_there(*engine)}
    about, rates = machine.environment(), machine.rates()
    shape = 1, (args.tile, args.tile)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure_stages(chain, preset, shape, engines, args.runs, Path(folder)))
    about[machine.RATES] = machine.rates(rates)
    figures = {
        "preset": preset.name,
        "tile": args.tile,
        "weights": origin,
        "machine": about,
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(about), file=sys.stderr)
    print(report(figures))
    for name in ENGINES.keys() - engines.keys():
        reason = "left out, as the processor or the installation lacks it"
        print(f"{name}: {reason}", file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.plot:
        plots.stages(figures, args.plot)
    return 0


def _is_there(engine: str, precision: str) -> bool:
    if engine == WINOGRAD:
        return BACKENDS[WINOGRAD].is_installed()
    return precision == "fp32" or computes_bf16()


def report(figures: Mapping[str, Any]) -> str:
    """Markdown of what `--json` keeps."""
    about, tile = figures["machine"], figures["tile"]
    rates = about[machine.RATES]
    rows = [Row(**row) for row in figures["rows"]]
    calls = calls_of(get_preset(figures["preset"]))
    header = ["stage", "calls", "GMAC", *rows[0].seconds]
    lines = [[row.name, str(calls[row.name]), *_cells(row)] for row in rows]
    return (
        f"`{figures['preset']}`, one {tile}x{tile} tile, {figures['weights']}; median and spread "
        f"of {len(rows[0].seconds[EAGER])} runs, times as fast as eager PyTorch, PSNR to "
        f"it{_rates_meant(rows[0])}. {about['processor']}, {about['cores']} cores; in matrix "
        "products it reaches "
        + " and ".join(f"{rate} GMAC/s in {name}" for name, rate in rates.items())
        + ".\n\n"
        + table(header, lines)
    )


def _rates_meant(row: Row) -> str:
    return (
        ", multiply-accumulates of eager PyTorch a second and, in brackets, those that are made"
        if row.made
        else ""
    )


def _cells(row: Row) -> Iterator[str]:
    yield f"{row.macs / 1e9:.1f}"
    for engine, seconds in row.seconds.items():
        cell = spread(seconds)
        if engine != EAGER:
            times = times_as_fast(seconds, row.seconds[EAGER])
            cell += f", {times if times == WITHIN else f'{times}x'}, {row.psnr[engine]:.0f} dB"
        if row.made:
            cell += f", {row.rate(engine)}"
        yield cell


def measure_stages(
    chain: Chain,
    preset: Preset,
    shape: tuple[int, tuple[int, int]],
    engines: Mapping[str, tuple[str, str]],
    runs: int,
    folder: Path,
) -> Iterator[Row]:
    """Time every stage on what the chain calls it with first."""
    values = random_input(preset, *shape, seed=0)
    calls = record(chain, *tensors(values))
    first = {call.stage.name: call for call in reversed(calls)}
    for stage in tqdm(preset.stages, desc="stages", unit="stage", disable=None):
        name, call = stage.name, first[stage.name]
        file = folder / f"{name}.onnx"
        model = single(chain, preset, trace_stage(chain, preset, name, *shape), name)
        ir.save(model, file, external_data=f"{name}.bin")
        row = Row(name, count.eager(partial(call.function, *call.arguments)))
        everyone: dict[str, Run] = {EAGER: partial(_eager, call)}
        for engine, (runtime, precision) in engines.items():
            everyone[engine] = _stage_run(runtime, precision, file, call)
            row.made[engine], _ = count.graph(file, winograd=runtime == WINOGRAD)
        yield time_in_turns(row, everyone, runs)


def _eager(call: Call) -> np.ndarray:
    return _joined(output.numpy() for output in call.function(*call.arguments))


def _stage_run(engine: str, precision: str, file: Path, call: Call) -> Run:
    if engine == "openvino":
        graph = run_openvino(file, precision)
    else:
        graph = run_onnxruntime(file, winograd=engine == WINOGRAD)
    inputs = {name: value.numpy() for name, value in call.inputs.items()}

    def run() -> np.ndarray:
        results = graph(inputs)
        return _joined(results[name] for name in call.stage.outputs)

    return run


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """All values of a stage's outputs."""
    return np.concatenate([array.ravel() for array in arrays])
