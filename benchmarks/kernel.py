"""The fused reverse step: against NumPy on the CPU, against the copy bandwidth on a GPU.

    python -m lpnsr.benchmarks.kernel [--threads N] [--rounds 20]

prints the best of the rounds. `read` reads the noise, `made` makes it on the spot; all the other
tensors of a step are there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from lpnsr import kernels
from lpnsr.kernels import Step, cuda, library, reference

STEP = Step(state=0.9, prediction=0.1, start=0.05, noise=0.5, next_scale=0.7)
READ = ("x", "x0", "y", "mean", "logvar", "weight", "eps")
SHAPES = [(1, 3, 64, 64), (32, 3, 64, 64), (1, 3, 1024, 1024)]
GPU_SHAPE = (64, 4, 512, 512)
"""A quarter of a gigabyte a tensor in float32, larger than any cache."""

_QUEUED = 10
"""Runs at once on a GPU, which would otherwise wait for Python to launch them."""


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, help="CPU threads of the kernel; all by default")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    if library.LIBRARY is None:
        raise SystemExit("lpnsr was built without a C++ compiler; install one and lpnsr again")
    print("| CPU, float32 | noise | NumPy, ms | kernel, ms | times as fast |")
    print("| --- | --- | --- | --- | --- |")
    for shape in SHAPES:
        for noise in ("read", "made"):
            numpy, kernel = cpu(shape, noise, args.threads, args.rounds)
            name = "x".join(map(str, shape))
            print(f"| {name} | {noise} | {numpy:.3f} | {kernel:.3f} | {numpy / kernel:.1f} |")
    try:
        device = cuda.device()
    except cuda.KernelError as error:
        print(f"GPU: {error}")
        return
    copied = copy_bandwidth(device, args.rounds)
    print(f"| {device.name}, copy {copied:.0f} GB/s | noise | GB/s | share of copy |")
    print("| --- | --- | --- | --- |")
    for dtype in cuda.ITEM_SIZES:
        for noise in ("read", "made"):
            reached = kernel_bandwidth(device, dtype, noise, args.rounds)
            print(f"| {dtype} | {noise} | {reached:.0f} | {reached / copied:.0%} |")


def cpu(
    shape: tuple[int, int, int, int], noise: str, threads: int | None, rounds: int
) -> tuple[float, float]:
    """Milliseconds of one step with NumPy and with the kernel."""
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(shape, dtype=np.float32) for name in READ}
    read = tensors.pop("eps")
    given: dict[str, Any] = {**tensors, "eps": read}
    if noise == "made":
        given = {**tensors, "origins": kernels.origins(0, [(0, 0)] * shape[0]), "draw": 1}
    out = np.empty(shape, np.float32), np.empty(shape, np.float32)

    def numpy() -> None:
        if noise == "made":
            window = (shape[1], 0, 0, *shape[2:])
            every = [reference.normals(0, range(1, 2), *window) for _ in range(shape[0])]
            eps = np.concatenate(every)
        else:
            eps = read
        _expression(**tensors, eps=eps)

    def kernel() -> None:
        kernels.residual_shift(STEP, **given, out=out, threads=threads)

    return _best(numpy, rounds), _best(kernel, rounds)


def _expression(
    x: np.ndarray,
    x0: np.ndarray,
    y: np.ndarray,
    mean: np.ndarray,
    logvar: np.ndarray,
    weight: np.ndarray,
    eps: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    a, b, c, s = STEP.state, STEP.prediction, STEP.start, STEP.noise
    new = a * x + b * x0 + c * y + s * weight * (mean + np.exp(logvar / 2) * eps)
    return new, new * STEP.next_scale


def copy_bandwidth(device: cuda.Device, rounds: int) -> float:
    """Gigabytes a second, read plus written, of the GPU's own copy of one tensor to another."""
    stream = device.create_stream()
    size = int(np.prod(GPU_SHAPE)) * 4
    source, target = (device.allocate(size, stream=stream) for _ in range(2))
    seconds = _gpu_seconds(device, stream, lambda: source.copy_to(target, stream=stream), rounds)
    return 2 * size / seconds / 1e9


def kernel_bandwidth(device: cuda.Device, dtype: str, noise: str, rounds: int) -> float:
    """Gigabytes a second, read plus written, of the kernel with all of the step's tensors."""
    stream = device.create_stream()
    size = int(np.prod(GPU_SHAPE)) * cuda.ITEM_SIZES[dtype]
    names = [*READ, "out", "scaled"]
    if noise == "made":
        names.remove("eps")
    buffers = {name: device.allocate(size, stream=stream) for name in names}
    places = device.allocate(16 * GPU_SHAPE[0], stream=stream)
    for buffer in (*buffers.values(), places):
        buffer.fill(0, stream=stream)
    kernel = cuda.ResidualShift(device)
    addresses = {name: int(buffer.handle) for name, buffer in buffers.items()}
    origins = int(places.handle) if noise == "made" else 0

    def launch() -> None:
        kernel.launch(stream, STEP, dtype, GPU_SHAPE, **addresses, draw=1, origins=origins)

    return len(names) * size / _gpu_seconds(device, stream, launch, rounds) / 1e9


def _best(run: Callable[[], None], rounds: int) -> float:
    """Milliseconds of the fastest round, after one to warm up."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return 1e3 * min(seconds)


def _gpu_seconds(
    device: cuda.Device, stream: cuda.Stream, run: Callable[[], None], rounds: int
) -> float:
    """Seconds of one run in the fastest round on the GPU's own clock, after one to warm up."""
    run()
    seconds = []
    for _ in range(rounds):
        start, end = (device.create_event({"timing_enabled": True}) for _ in range(2))
        stream.record(start)
        for _ in range(_QUEUED):
            run()
        stream.record(end)
        end.sync()
        seconds.append((end - start) / 1e3 / _QUEUED)
    return min(seconds)


if __name__ == "__main__":
    main()
