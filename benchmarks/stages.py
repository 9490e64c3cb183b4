"""Each stage and the whole chain in PyTorch, ONNX Runtime and OpenVINO, on one tile.

All engines get the same input and take turns, so that all of them meet the same moods of the
machine. The graphs are those that `lpnsr-export` makes; the whole chain runs as `lpnsr-run` runs
it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from lpnsr.benchmarks import machine, startup, weights
from lpnsr.export.engines import computes_bf16, run_onnxruntime, run_openvino
from lpnsr.export.pack import pack
from lpnsr.export.trace import stages_of, trace_stage
from lpnsr.export.unroll import single
from lpnsr.export.verify import psnr, random_input
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.weights import find_weights, load_chain
from lpnsr.runtime import backends
from lpnsr.runtime.bundle import Bundle

EAGER = "PyTorch f32"
ENGINES = {
    "ONNX Runtime f32": ("onnxruntime", "f32"),
    "OpenVINO f32": ("openvino", "f32"),
    "OpenVINO bf16": ("openvino", "bf16"),
}
Run = Callable[[], np.ndarray]


@dataclass
class Row:
    """One stage, or the whole chain.

    Attributes:
        name: the stage.
        macs: multiply-accumulates of the eager network.
        seconds: engine -> seconds of every timed run.
        psnr: engine -> PSNR to eager float32 in dB, against a range of 2.
    """

    name: str
    macs: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    psnr: dict[str, float] = field(default_factory=dict)

    def cells(self) -> Iterator[str]:
        """Cells of a Markdown table: median and spread, then times as fast as eager and PSNR."""
        eager = statistics.median(self.seconds[EAGER])
        yield self.name
        yield f"{self.macs / 1e9:.1f}"
        for engine, seconds in self.seconds.items():
            median = statistics.median(seconds)
            cell = f"{median:.3f} s ± {(max(seconds) - min(seconds)) / 2 / median:.0%}"
            if engine != EAGER:
                cell += f", {eager / median:.2f}x, {self.psnr[engine]:.0f} dB"
            yield cell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench stages`."""
    add = parser.add_argument
    add("--preset", default="lpnsr-tiny", help="model (default: the built-in, lpnsr-tiny)")
    add("--weights", type=Path, help="folder with checkpoints (default: deterministic weights)")
    add("--tile", type=int, default=64, help="side of the tile in input pixels (default: 64)")
    add("--runs", type=int, default=5, help="timed runs of each engine (default: 5)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code."""
    preset = get_preset(args.preset)
    if args.weights or preset.weights:
        chain = load_chain(preset, find_weights(preset, args.weights))
        origin = "given weights" if args.weights else "its own weights"
    else:
        chain, origin = preset.build(), "deterministic weights, on which speed does not hang"
        weights.fill(chain)
    engines = {
        name: engine for name, engine in ENGINES.items() if engine[1] == "f32" or computes_bf16()
    }
    about = machine.environment() | {
        "GMAC/s in matrix products": {
            precision: round(machine.matrix_rate(precision) / 1e9) for precision in ("f32", "bf16")
        }
    }
    shape = 1, (args.tile, args.tile)
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure_stages(chain, preset, shape, engines, args.runs, Path(folder)))
        print("exporting", file=sys.stderr)
        bundle = pack(chain, preset, [shape], Path(folder) / "bundle")
        starts = measure_starts(bundle, engines, Path(folder) / "cache")
        rows.append(measure_chain(chain, preset, bundle, engines, args.runs))
    figures = {
        "preset": preset.name,
        "tile": args.tile,
        "weights": origin,
        "machine": about,
        "rows": [asdict(row) for row in rows],
        "starts": starts,
        "parity": bundle.manifest.graphs[0].parity,
    }
    print(json.dumps(about), "\n\n" + report(figures), sep="")
    if len(engines) < len(ENGINES):
        print("OpenVINO bf16: left out, as the processor does not compute in it")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def report(figures: Mapping[str, object]) -> str:
    """Markdown of what `--json` keeps."""
    rates = figures["machine"]["GMAC/s in matrix products"]
    parity = figures["parity"].get("bf16")
    lines = [
        f"`{figures['preset']}`, {figures['weights']}; this machine reaches "
        + " and ".join(f"{rate} GMAC/s in {name}" for name, rate in rates.items())
        + " in matrix products:",
        "",
        table([Row(**row) for row in figures["rows"]]),
        "",
        starts_table(figures["starts"]),
    ]
    if parity:
        decoder = parity.get("decoder_psnr", parity["sr_psnr"])
        what = "decoder on equal codes" if "decoder_psnr" in parity else "end to end"
        lines += [
            "",
            f"In bf16, x_0 is within {parity['x0_relative_l2']:.1e} relative L2; {what}, "
            f"{decoder:.1f} dB.",
        ]
    return "\n".join(lines)


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
        row = Row(stage, _macs(call, x))
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


def measure_chain(
    chain: Chain,
    preset: Preset,
    bundle: Bundle,
    engines: Mapping[str, tuple[str, str]],
    runs: int,
) -> Row:
    """Time the whole chain, in the runtime's backends."""
    graph = bundle.manifest.graphs[0]
    values = random_input(preset, graph.batch, graph.tile, seed=0)
    lr, noise = (torch.from_numpy(values[name]) for name in ("lr", "noise"))
    macs = _macs(lambda z: chain(z, noise), lr)
    everyone = {EAGER: lambda: chain(lr, noise).numpy()}
    for name, (engine, precision) in engines.items():
        backend, _ = backends.create(engine, None, precision)
        backend.load(bundle, graph)
        everyone[name] = lambda backend=backend: backend.run(values["lr"], values["noise"])
    return time_in_turns(Row("chain", macs), everyone, runs)


def measure_starts(
    bundle: Bundle, engines: Mapping[str, tuple[str, str]], cache: Path
) -> dict[str, list[dict[str, float]]]:
    """Engine -> first and second start of a process, up to the first picture."""
    found = {}
    for name, engine in engines.items():
        own = cache / "_".join(engine)
        found[name] = [startup.measure(bundle.path, *engine, own) for _ in range(2)]
    return found


@torch.no_grad()
def time_in_turns(row: Row, everyone: Mapping[str, Run], runs: int) -> Row:
    """Fill a row; the first round warms up and compares the results."""
    expected = None
    for name, call in everyone.items():
        result = call()
        expected = result if expected is None else expected
        row.psnr[name] = round(psnr(result, expected), 1)
        row.seconds[name] = []
    for _ in range(runs):
        for name, call in everyone.items():
            time.sleep(0.05)  # the engine before may keep its threads spinning for a moment
            start = time.perf_counter()
            call()
            row.seconds[name].append(round(time.perf_counter() - start, 4))
    return row


def _stage_run(engine: str, precision: str, file: Path, x: np.ndarray) -> Run:
    graph = run_onnxruntime(file) if engine == "onnxruntime" else run_openvino(file, precision)
    return lambda: next(iter(graph({"x": x}).values()))


def _macs(call: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Multiply-accumulates of a call."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(x)
    return counter.get_total_flops() // 2


def table(rows: list[Row]) -> str:
    """Markdown."""
    engines = list(rows[0].seconds)
    lines = [["stage", "GMAC", *engines], ["---"] * (len(engines) + 2)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*lines, *map(Row.cells, rows)])


def starts_table(starts: Mapping[str, list[dict[str, float]]]) -> str:
    """Markdown."""
    lines = ["| engine | first start | second start | peak memory |", "| --- | --- | --- | --- |"]
    for engine, (first, second) in starts.items():
        memory = max(first["memory"], second["memory"]) / 1e9
        lines.append(
            f"| {engine} | {first['seconds']:.1f} s | {second['seconds']:.1f} s | {memory:.2f} GB |"
        )
    return "\n".join(lines)
