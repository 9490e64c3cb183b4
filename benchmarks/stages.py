"""Each stage in PyTorch, ONNX Runtime and OpenVINO, on one tile.

All engines get the same input and take turns. The graphs are those that `lpnsr-export` makes the
chain of.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from tqdm import tqdm

from lpnsr.benchmarks import count, machine
from lpnsr.benchmarks.measure import build_chain
from lpnsr.benchmarks.methods import EAGER
from lpnsr.benchmarks.report import table
from lpnsr.benchmarks.timing import Row, Run, spread, time_in_turns
from lpnsr.export.engines import computes_bf16, run_onnxruntime, run_openvino
from lpnsr.export.trace import stages_of, trace_stage
from lpnsr.export.unroll import single
from lpnsr.export.verify import random_input
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, get_preset

ENGINES = {
    "ONNX Runtime f32": ("onnxruntime", "f32"),
    "OpenVINO f32": ("openvino", "f32"),
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
    engines = {
        name: engine for name, engine in ENGINES.items() if engine[1] == "f32" or computes_bf16()
    }
    about = machine.environment() | {"GMAC/s in matrix products": machine.rates()}
    shape = 1, (args.tile, args.tile)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure_stages(chain, preset, shape, engines, args.runs, Path(folder)))
    figures = {
        "preset": preset.name,
        "tile": args.tile,
        "weights": origin,
        "machine": about,
        "rows": [asdict(row) for row in rows],
    }
    print(json.dumps(about), file=sys.stderr)
    print(report(figures))
    if len(engines) < len(ENGINES):
        print("OpenVINO bf16: left out, as the processor does not compute in it")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    if args.plot:
        from lpnsr.benchmarks import plots

        plots.stages(figures, args.plot)
    return 0


def report(figures: Mapping[str, object]) -> str:
    """Markdown of what `--json` keeps."""
    machine, tile = figures["machine"], figures["tile"]
    rates = machine["GMAC/s in matrix products"]
    rows = [Row(**row) for row in figures["rows"]]
    calls = calls_of(get_preset(figures["preset"]))
    header = ["stage", "calls", "GMAC", *rows[0].seconds]
    lines = [[row.name, str(calls[row.name]), *_cells(row)] for row in rows]
    return (
        f"`{figures['preset']}`, one {tile}x{tile} tile, {figures['weights']}; median and half the "
        f"spread of {len(rows[0].seconds[EAGER])} runs, times as fast as eager PyTorch, PSNR to "
        f"it. {machine['processor']}, {machine['cores']} cores; in matrix products it reaches "
        + " and ".join(f"{rate} GMAC/s in {name}" for name, rate in rates.items())
        + ".\n\n"
        + table(header, lines)
    )


def _cells(row: Row) -> Iterator[str]:
    eager = statistics.median(row.seconds[EAGER])
    yield f"{row.macs / 1e9:.1f}"
    for engine, seconds in row.seconds.items():
        cell = spread(seconds)
        if engine != EAGER:
            cell += f", {eager / statistics.median(seconds):.2f}x, {row.psnr[engine]:.0f} dB"
        yield cell


def calls_of(preset: Preset) -> dict[str, int]:
    """Stage -> how often the chain calls it."""
    steps = preset.schedule.reverse_steps()
    calls = dict.fromkeys(stages_of(preset), 1)
    calls["denoiser"] = len(steps)
    calls["encoder"] += "auxiliary" in calls
    if "noise_predictor" in calls:
        calls["noise_predictor"] = sum(step.noise > 0 and step.predicted for step in steps)
    return calls


def measure_stages(
    chain: Chain,
    preset: Preset,
    shape: tuple[int, tuple[int, int]],
    engines: Mapping[str, tuple[str, str]],
    runs: int,
    folder: Path,
) -> Iterator[Row]:
    """Time every stage on the input that it gets in the chain."""
    values = random_input(preset, *shape, seed=0)
    with torch.no_grad():
        inputs = stage_inputs(chain, *(torch.from_numpy(values[n]) for n in ("lr", "noise")))
    for stage in tqdm(stages_of(preset), desc="stages", unit="stage", disable=None):
        file = folder / f"{stage}.onnx"
        model = single(chain, preset, trace_stage(chain, preset, stage, *shape), stage)
        ir.save(model, file, external_data=f"{stage}.bin")
        call, x = inputs[stage]
        row = Row(stage, count.eager(lambda call=call, x=x: call(x)))
        everyone = {EAGER: lambda call=call, x=x: call(x).numpy()}
        for name, (engine, precision) in engines.items():
            everyone[name] = _stage_run(engine, precision, file, x.numpy())
        yield time_in_turns(row, everyone, runs)


def stage_inputs(
    chain: Chain, lr: Tensor, noise: Tensor
) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Stage -> its eager function and what it gets at the first step of the chain."""
    codec, step = chain.codec, chain.schedule.reverse_steps()[0]
    picture = chain.pre_upsampler(lr)
    y = codec.encode(picture)
    condition, weight = chain.guidance(lr, y)
    x = y + chain.schedule.start_noise * weight * noise[0]
    timestep = torch.tensor([step.timestep])
    calls = {
        "pre_upsampler": (chain.pre_upsampler, lr),
        "encoder": (codec.encode, picture),
        "auxiliary": (chain.auxiliary, lr),
        "decoder": (codec.decode, x),
    }
    unet = chain.denoiser
    scaled = torch.cat([x * step.input_scale, condition], dim=1)
    modulation = unet.modulation(timestep)
    calls["denoiser"] = (lambda z: unet(z, modulation)), scaled
    if chain.noise_predictor is not None:
        predictor, own = chain.noise_predictor, chain.noise_predictor.modulation(timestep)
        pictures = torch.cat([x, unet(scaled, modulation), condition], dim=1)
        calls["noise_predictor"] = (lambda z: predictor(z, own)), pictures
    if hasattr(codec, "nearest_codes"):
        calls["quantizer"] = codec.nearest_codes, x
        calls["decoder"] = codec.decode_quantized, codec.nearest_codes(x)
    return calls


def _stage_run(engine: str, precision: str, file: Path, x: np.ndarray) -> Run:
    graph = run_onnxruntime(file) if engine == "onnxruntime" else run_openvino(file, precision)
    return lambda: next(iter(graph({"x": x}).values()))
