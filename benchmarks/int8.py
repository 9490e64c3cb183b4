"""What 8-bit convolutions would bring: `python -m lpnsr.benchmarks.int8 --photos DIR`.

Quantises the convolutions of the pre-upsampler, the encoder and the decoder (static, per channel,
calibrated on tiles of the photographs), and compares speed and PSNR with bfloat16. It is a study:
the figures in the README say why `lpnsr-run` has no such precision.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from PIL import Image

from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.measure import build_chain
from lpnsr.benchmarks.timing import Row, Run, spread, time_in_turns
from lpnsr.export.check.calls import Call, record
from lpnsr.export.check.run_onnx import Values, run_onnxruntime, run_openvino
from lpnsr.export.graph.composing import single
from lpnsr.export.graph.trace import trace_stage
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, get_preset

STAGES = ("pre_upsampler", "encoder", "decoder")


class _Tiles(CalibrationDataReader):
    def __init__(self, inputs: Sequence[Values]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> Values | None:
        return next(self._inputs, None)


def main() -> None:
    """Quantise, measure, print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m lpnsr.benchmarks.int8", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True, help="folder to calibrate on")
    parser.add_argument("--preset", default="lpnsr-tiny")
    parser.add_argument("--weights", type=Path, help="checkpoints (default: deterministic)")
    parser.add_argument("--tiles", type=int, default=8, help="for calibration (default: 8)")
    parser.add_argument("--runs", type=int, default=5, help="timed runs (default: 5)")
    args = parser.parse_args()
    preset = get_preset(args.preset)
    chain, _ = build_chain(preset, args.weights)
    calls = calibration(chain, preset, list(tiles(args.photos, args.tiles + 1)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in STAGES:
            model = single(chain, preset, trace_stage(chain, preset, stage, 1, (64, 64)), stage)
            if not any(node.op_type == "Conv" for node in model.graph):
                continue
            file, small = Path(folder) / f"{stage}.onnx", Path(folder) / f"{stage}.int8.onnx"
            ir.save(model, file, external_data=f"{stage}.bin")
            held_out, *calibrating = [_inputs(call) for call in calls[stage]]
            quantize(file, small, calibrating)
            rows.append(measure(calls[stage][0], file, small, held_out, args.runs))
    lines = [
        [
            row.name,
            *(
                f"{spread(seconds)}, {row.psnr[name]:.0f} dB"
                for name, seconds in row.seconds.items()
            ),
        ]
        for row in rows
    ]
    print(table(["stage", *rows[0].seconds], lines))


def tiles(folder: Path, number: int, size: int = 64) -> Iterator[np.ndarray]:
    """Tiles (1, 3, size, size) in [-1, 1] from the middle of photographs reduced to a quarter."""
    files = sorted(folder.glob("*.png"))
    for index in range(number):
        with Image.open(files[index % len(files)]) as photo:
            small = photo.convert("RGB").reduce(4)
        left, top = (small.width - size) // 2, (small.height - size) // 2
        pixels = np.asarray(small.crop((left, top, left + size, top + size)), np.float32)
        yield np.ascontiguousarray(pixels.transpose(2, 0, 1)[None] / 127.5 - 1)


def calibration(
    chain: Chain, preset: Preset, pictures: Sequence[np.ndarray]
) -> dict[str, list[Call]]:
    """Stage -> what the chain calls it with, for each picture."""
    found: dict[str, list[Call]] = {stage: [] for stage in STAGES}
    for number, picture in enumerate(pictures):
        generator = torch.Generator().manual_seed(number)
        lr = torch.from_numpy(picture)
        shape = preset.shape("noise", 1, (lr.shape[2], lr.shape[3]))
        noise = torch.randn(shape, generator=generator)
        for call in record(chain, lr, noise):
            if call.stage.name in found:
                found[call.stage.name].append(call)
    return found


def _inputs(call: Call) -> Values:
    return {name: value.numpy() for name, value in call.inputs.items()}


def quantize(file: Path, target: Path, inputs: Sequence[Values]) -> None:
    """Write the graph with 8-bit convolutions."""
    quantize_static(
        file,
        target,
        _Tiles(inputs),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Conv"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def measure(call: Call, file: Path, small: Path, inputs: Values, runs: int) -> Row:
    """Time eager PyTorch and the engines in turns, and compare with eager."""
    engines = {
        "OpenVINO bf16": run_openvino(file, "bf16"),
        "ONNX Runtime int8": run_onnxruntime(small),
        "OpenVINO int8, fp32": run_openvino(small, "fp32"),
        "OpenVINO int8, bf16": run_openvino(small, "bf16"),
    }
    everyone: dict[str, Run] = {"PyTorch fp32": partial(_eager, call)}
    for name, engine in engines.items():
        everyone[name] = partial(_output, engine, inputs)
    return time_in_turns(Row(call.stage.name, 0), everyone, runs)


def _eager(call: Call) -> np.ndarray:
    return call.function(*call.arguments)[0].numpy()


def _output(engine: Callable[[Values], Values], inputs: Values) -> np.ndarray:
    return next(iter(engine(inputs).values()))


if __name__ == "__main__":
    main()
