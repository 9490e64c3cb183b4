"""Single 3x3 convolutions on the CPU: ONNX Runtime's own, and ours with fewer multiplications.

    python -m lpnsr.benchmarks.convolutions [--threads 1] [--rounds 20]

prints the best of the rounds, in which both take turns, as GMAC/s of a direct convolution.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lpnsr.kernels.operators import library
from lpnsr.runtime.backends.winograd_graph import with_winograd

LAYERS = [(channels, side) for side in (64, 128) for channels in (64, 128, 160, 256, 320, 512)] + [
    (320, 32),
    (320, 16),
]
"""Channels of input and output, and side."""


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if library() is None:
        raise SystemExit("lpnsr was built without its convolutions; install GCC 12 and lpnsr again")
    print("| channels | side | ONNX Runtime | ours | times as fast | relative L2 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for channels, side in LAYERS:
        plain, ours, distance = compare(channels, side, args.threads, args.rounds)
        cells = f"{plain:.0f} | {ours:.0f} | {ours / plain:.2f} | {distance:.1e}"
        print(f"| {channels} | {side} | {cells} |", flush=True)


def compare(channels: int, side: int, threads: int, rounds: int) -> tuple[float, float, float]:
    """GMAC/s of both, and the relative distance of what they give."""
    model = layer(channels, side)
    sessions = [session(content, threads) for content in (model, with_winograd(model))]
    x = np.random.default_rng(1).standard_normal((1, channels, side, side), np.float32)
    plain, ours = (each.run(None, {"x": x})[0] for each in sessions)
    best = [float("inf")] * 2
    for _ in range(rounds):
        for number, each in enumerate(sessions):
            start = time.perf_counter()
            each.run(None, {"x": x})
            best[number] = min(best[number], time.perf_counter() - start)
    macs = 9 * (channels * side) ** 2 / 1e9
    return (
        macs / best[0],
        macs / best[1],
        float(np.linalg.norm(ours - plain) / np.linalg.norm(plain)),
    )


def layer(channels: int, side: int) -> bytes:
    """A model of one convolution."""
    weights = np.random.default_rng(0).standard_normal((channels, channels, 3, 3), np.float32)
    constants = {"w": weights / np.float32(3 * channels**0.5), "b": np.zeros(channels, np.float32)}
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, side, side])
        for name in "xy"
    )
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1])
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([node], "layer", [x], [y], tensors)
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def session(model: bytes, threads: int) -> onnxruntime.InferenceSession:
    """A model that is ready to run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
