"""The CUDA kernel against NumPy. `pytest -m gpu` runs these alone."""

import sys

import numpy as np
import pytest

from lpnsr import kernels
from lpnsr.benchmarks import kernel as benchmark
from lpnsr.kernels import Step, cuda, reference

from .answers import PUBLISHED
from .types import TOLERANCES, narrowed, rounded, widened

pytestmark = pytest.mark.gpu

STEP = Step(state=0.9, prediction=0.15, start=-0.05, noise=0.7, next_scale=0.3)
NOISE_ONLY = Step(state=0, prediction=0, noise=1)
OPTIONAL = [("x0",), ("x0", "eps"), ("x0", "y", "mean", "logvar", "weight", "eps")]


class Memory:
    """Arrays in the memory of the GPU."""

    def __init__(self, device):
        self.device, self.stream = device, device.create_stream()
        self._buffers = []

    def empty(self, size):
        buffer = self.device.allocate(size, stream=self.stream)
        self._buffers.append(buffer)
        self.stream.sync()
        return int(buffer.handle)

    def upload(self, array):
        address = self.empty(array.nbytes)
        self.write(address, array)
        return address

    def write(self, address, array):
        from cuda.bindings import driver

        array = np.ascontiguousarray(array)
        check(driver.cuMemcpyHtoD(address, array.ctypes.data, array.nbytes))
        self.device.sync()  # the copy may return before it is done, and streams do not wait for it

    def download(self, address, shape, dtype):
        from cuda.bindings import driver

        self.stream.sync()
        array = np.empty(shape, dtype)
        check(driver.cuMemcpyDtoH(array.ctypes.data, address, array.nbytes))
        return array


def check(result):
    assert int(result[0]) == 0, result[0]


@pytest.fixture
def memory(gpu):
    return Memory(gpu)


@pytest.fixture(scope="session")
def kernel(gpu):
    return cuda.ResidualShift(gpu)


@pytest.fixture
def run(memory, kernel):
    """`run(step, dtype, shape, tensors)`: the new state and the scaled one, both float32."""

    def launch(step, dtype, shape, tensors, **noise):
        bits = np.uint16 if dtype == "bfloat16" else dtype
        addresses = {name: memory.upload(narrowed(t, dtype)) for name, t in tensors.items()}
        size = int(np.prod(shape)) * cuda.ITEM_SIZES[dtype]
        outputs = memory.empty(size), memory.empty(size)
        kernel.launch(
            memory.stream,
            step,
            dtype,
            shape,
            **addresses,
            **noise,
            out=outputs[0],
            scaled=outputs[1],
        )
        return [widened(memory.download(a, shape, bits), dtype) for a in outputs]

    return launch


def test_the_gpu_gives_the_published_answers(memory, kernel):
    from cuda.core import LaunchConfig, launch

    for counter, key, words in PUBLISHED:
        source, target = memory.upload(np.array(counter, np.uint32)), memory.empty(16)
        sizes = map(np.uint32, (1, *key))
        config = LaunchConfig(grid=1, block=32)
        launch(memory.stream, config, kernel.kernels["philox4x32_words"], source, *sizes, target)
        assert tuple(memory.download(target, 4, np.uint32)) == words


def test_the_gpu_gives_the_same_words(memory, kernel):
    from cuda.core import LaunchConfig, launch

    counters = np.random.default_rng(0).integers(0, 2**32, (10001, 4), dtype=np.uint32)
    key = (2**32 - 1, 12345)
    source, target = memory.upload(counters), memory.empty(counters.nbytes)
    sizes = map(np.uint32, (len(counters), *key))
    config = LaunchConfig(grid=-(-len(counters) // 128), block=128)
    launch(memory.stream, config, kernel.kernels["philox4x32_words"], source, *sizes, target)
    words = np.stack(reference.philox4x32(counters.T, key), axis=1)
    np.testing.assert_array_equal(memory.download(target, counters.shape, np.uint32), words)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 6, 5, 7), (3, 4, 33, 1032)], ids=str)
def test_the_gpu_makes_the_same_noise(memory, run, shape):
    batch, channels, *size = shape
    places = [(100 * item, 2**20 + 64 * item) for item in range(batch)]
    origins = memory.upload(kernels.origins(2**63 + 5, places))
    found, scaled = run(NOISE_ONLY, "float32", shape, {}, draw=3, origins=origins)
    for item, place in enumerate(places):
        expected = reference.normals(2**63 + 5, range(3, 4), channels, *place, *size)[0]
        np.testing.assert_allclose(found[item], expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(scaled, found)


@pytest.mark.parametrize("dtype", cuda.ITEM_SIZES)
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 5, 5, 7), (2, 4, 31, 1032)], ids=str)
@pytest.mark.parametrize("given", OPTIONAL, ids="+".join)
def test_a_step_is_the_formula(run, tensors, expected, dtype, shape, given):
    every = rounded(tensors(shape), dtype)
    chosen = {name: every[name] for name in ("x", *given)}
    found = run(STEP, dtype, shape, chosen)
    for ours, theirs in zip(found, expected(STEP, chosen), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", cuda.ITEM_SIZES)
def test_noise_is_made_where_each_item_lies(memory, run, tensors, dtype):
    shape, seed, draw = (3, 3, 64, 72), 2**40 + 7, 2
    origins = kernels.origins(seed, [(0, 0), (40, 64), (2**20, 3)])
    every = rounded(tensors(shape), dtype)
    del every["eps"]
    expected = kernels.residual_shift(STEP, **every, draw=draw, origins=origins)
    found = run(STEP, dtype, shape, every, draw=draw, origins=memory.upload(origins))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])


def test_tensors_need_not_be_aligned(memory, kernel, tensors):
    every, shape = tensors((1, 3, 8, 64)), (1, 3, 8, 64)
    padded = memory.upload(np.concatenate([[np.float32(0)], every["x"].ravel()]))
    out = memory.empty(every["x"].nbytes)
    kernel.launch(memory.stream, Step(2, 0), "float32", shape, x=padded + 4, out=out)
    np.testing.assert_array_equal(memory.download(out, shape, np.float32), 2 * every["x"])


def test_a_captured_graph_moves_to_another_place(memory, kernel):
    shape = (1, 3, 64, 64)
    out = memory.empty(int(np.prod(shape)) * 4)
    origins = memory.upload(kernels.origins(1, [(0, 0)]))
    step = {"out": out, "draw": 1, "origins": origins}
    kernel.launch(memory.stream, NOISE_ONLY, "float32", shape, **step)
    memory.stream.sync()  # what is loaded at the first launch is loaded before the capture
    builder = memory.device.create_graph_builder().begin_building()
    kernel.launch(builder, NOISE_ONLY, "float32", shape, **step)
    graph = builder.end_building().complete()
    for seed, place in ((1, (0, 0)), (2**35, (640, 1280))):
        memory.write(origins, kernels.origins(seed, [place]))
        graph.launch(memory.stream)
        found = memory.download(out, shape, np.float32)[0]
        expected = reference.normals(seed, range(1, 2), 3, *place, 64, 64)[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_nvrtc_compiles_the_same_kernel(gpu, kernel, memory, monkeypatch):
    monkeypatch.setattr(cuda, "installed", lambda name: None)
    compiled = cuda.ResidualShift(gpu)
    shape = (1, 4, 16, 16)
    origins = memory.upload(kernels.origins(5, [(3, 4)]))
    outputs = [memory.empty(4096), memory.empty(4096)]
    for each, out in zip((kernel, compiled), outputs, strict=True):
        each.launch(memory.stream, NOISE_ONLY, "float32", shape, out=out, origins=origins)
    first, second = (memory.download(out, shape, np.float32) for out in outputs)
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-6)


def test_the_benchmark_has_a_row_for_every_type(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernel", "--rounds", "2"])
    benchmark.main()
    rows = [row.split(" | ")[0] for row in capsys.readouterr().out.splitlines()]
    assert {f"| {dtype}" for dtype in cuda.ITEM_SIZES} <= set(rows)
