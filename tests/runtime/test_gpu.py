"""What runs on an NVIDIA GPU, held against the CPU. `pytest -m gpu` runs these alone."""

import dataclasses
import shutil

import numpy as np
import pytest

from lpnsr.export.engines import building, command, store
from lpnsr.kernels import Step, cuda
from lpnsr.runtime import backends, bundle
from lpnsr.runtime.backends import engine_files, onnxruntime_cuda
from lpnsr.runtime.backends.base import BackendError, Task
from lpnsr.runtime.backends.cuda_memory import cuda_errors
from lpnsr.runtime.backends.cuda_replay import Replay
from lpnsr.runtime.backends.gpu_pictures import Pictures
from lpnsr.runtime.backends.tensorrt import TensorRt
from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.manifest import MANIFEST
from lpnsr.runtime.tiles import tiling
from lpnsr.runtime.upscaler import Upscaler

from .toy import photo, write_bundle, write_staged_bundle

pytestmark = pytest.mark.gpu

SHAPE = (2, 3, 24, 40)


@pytest.fixture(scope="module")
def gpu():
    try:
        return cuda.device()
    except cuda.KernelError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", params=engine_files.BUILDERS)
def order(request, gpu):
    """What builds engines for this GPU."""
    pytest.importorskip(request.param.replace("-", "_"), reason="the builder is not installed")

    try:
        return building.order(request.param)
    except BackendError as error:
        pytest.skip(str(error))


def with_engines(folder, order):

    return command.build(Bundle.open(folder), order).path


@pytest.fixture(scope="module")
def built(order, tmp_path_factory):
    """A folder with the built-in model's smallest graph and its engine, and who built it."""
    folder = tmp_path_factory.mktemp("built") / "model"
    shutil.copytree(BUILTIN, folder)
    opened = Bundle.open(folder)
    smallest = min(opened.manifest.graphs, key=lambda graph: graph.tile)
    manifest = dataclasses.replace(opened.manifest, graphs=(smallest,))
    (folder / MANIFEST).write_text(manifest.to_json())
    return with_engines(folder, order), order.builder


def inputs(opened, graph, count):
    rng = np.random.default_rng(0)
    unrolled = dataclasses.replace(graph, stages=())  # takes the noise too
    lr, noise, _ = bundle.shapes(opened.manifest, unrolled).values()
    return [
        (
            rng.uniform(-1, 1, lr).astype(np.float32),
            rng.standard_normal(noise).astype(np.float32),
        )
        for _ in range(count)
    ]


def expected(opened, graph, values):
    reference, _ = backends.create("onnxruntime")
    session = reference.load(opened, graph)
    return [session.run(*batch) for batch in values]


def psnr(found, reference):
    error = np.square(np.subtract(found, reference), dtype=np.float64).mean()
    return 10 * np.log10(4 / max(error, 4e-20))


@pytest.mark.parametrize("capture", [True, False])
def test_batches_do_not_mix(gpu, capture):
    kernel = cuda.ResidualShift(gpu)

    def enqueue(stream, addresses):
        names = {"x": addresses["x"], "out": addresses["out"]}
        kernel.launch(stream, Step(state=2, prediction=0), "float32", SHAPE, **names)

    replay = Replay(gpu, {"x": SHAPE, "out": SHAPE}, enqueue, capture)
    rng = np.random.default_rng(0)
    for batch in (rng.standard_normal(SHAPE, np.float32) for _ in range(20)):
        np.testing.assert_array_equal(replay.run(batch), 2 * batch)


@pytest.mark.parametrize("size", [(1, 1), (40, 300), (333, 250)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("color_limit", [0.0, 0.125, np.inf])
def test_a_picture_that_nothing_is_done_to_comes_back(gpu, size, dtype, color_limit):
    """A model of scale 1 whose output is its input."""
    shape = (3, 3, 64, 64)
    pictures = Pictures(gpu, copying(gpu, shape), [shape, (1, *shape), shape])
    rng = np.random.default_rng(0)
    picture = rng.integers(0, np.iinfo(dtype).max, (*size, 3), dtype, endpoint=True)
    tiles, done = tiling.plan(size, shape[2:], (16, 16), 1), []
    task = Task(picture, tiles, 1, 0, 1, color_limit, np.dtype(dtype), done.append)
    found = np.concatenate(list(pictures.bands(task))).astype(int)
    assert np.abs(found - picture).max() <= (0 if dtype == np.uint8 else 1)
    assert done[-1] == len(tiles)


def copying(gpu, shape):
    """A computation whose output is its input."""
    kernel = cuda.ResidualShift(gpu)

    def enqueue(stream, addresses):
        tensors = {"x": addresses["lr"], "out": addresses["sr"]}
        kernel.launch(stream, Step(state=1, prediction=0), "float32", shape, **tensors)

    return Replay(gpu, {"lr": shape, "noise": (1, *shape), "sr": shape}, enqueue)


def test_exhausted_memory_is_a_memory_error(gpu):
    with pytest.raises(MemoryError), cuda_errors("too much"):
        gpu.allocate(2**50, stream=gpu.create_stream())


def test_an_engine_computes_what_its_graph_computes(built):
    folder, name = built
    opened = Bundle.open(folder)
    (graph,) = opened.manifest.graphs
    values = inputs(opened, graph, 5)
    theirs = expected(opened, graph, values)
    results = []
    for captures in (True, False):
        session = TensorRt(name, captures).load(opened, graph)
        results.append([session.run(*batch) for batch in values])
        assert psnr(session.run(*values[2]), results[-1][2]) >= 80
    found = [psnr(*pair) for pair in zip(results[0], theirs, strict=True)]
    print(name, "PSNR to ONNX Runtime:", [f"{value:.1f} dB" for value in found])
    assert min(found) >= 60
    assert psnr(*results) >= 80


@pytest.mark.parametrize("captures", [True, False])
def test_a_staged_chain_is_driven_as_on_a_cpu(order, tmp_path, captures):
    opened = Bundle.open(write_staged_bundle(tmp_path / "staged"))
    (graph,) = opened.manifest.graphs
    parity = {"fp32": {"sr_psnr": 120.0}}  # what engines are held against when they are built
    manifest = dataclasses.replace(
        opened.manifest, graphs=(dataclasses.replace(graph, parity=parity),)
    )
    (opened.path / MANIFEST).write_text(manifest.to_json())
    opened = Bundle.open(with_engines(opened.path, order))
    values = inputs(opened, graph, 7)
    session = TensorRt(order.builder, captures).load(opened, graph)
    found = [session.run(*batch) for batch in values]
    pairs = zip(found, expected(opened, graph, values), strict=True)
    assert min(psnr(*pair) for pair in pairs) >= 80


def test_timings_are_kept_for_the_next_build(order, tmp_path):
    if order.builder != "tensorrt":
        pytest.skip("it times nothing")
    opened = Bundle.open(write_bundle(tmp_path / "toy", tiles=[(32, 32)], batches=[1, 2]))
    wanted = dataclasses.replace(order, timing_cache=tmp_path / "timings")
    sizes = []
    for graph in opened.manifest.graphs:
        opened, _ = store.add_engine(opened, graph.file, wanted, lambda phase, done: None)
        sizes.append(wanted.timing_cache.stat().st_size)
    assert 0 < sizes[0] < sizes[1]
    assert {file.name for file in tmp_path.iterdir()} == {"toy", "timings"}


def test_tensorrt_rtx_accepts_the_gpus_that_it_lists_and_no_others(gpu, tmp_path):
    trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")

    gpus = building.supported(trt)
    folder = write_bundle(tmp_path / "toy", tiles=[(32, 32)], batches=[1])
    (file,) = folder.glob("*.onnx")
    plan = building.build(file, building.order("tensorrt-rtx", gpus), lambda phase, done: None)
    runtime = trt.Runtime(engine_files.create_log(trt))
    validity, diagnostics = runtime.get_engine_validity(bytes(plan)[:64])
    print(f"sm_{gpu.arch}: {validity}, diagnostics {diagnostics}; listed are {', '.join(gpus)}")
    accepted = validity != trt.EngineValidity.INVALID
    assert accepted == (f"sm_{gpu.arch}" in gpus)


def test_a_picture_is_the_same_as_on_a_cpu(built):
    folder, _ = built
    picture = photo(150, 130)
    model = Upscaler.from_bundle(folder)
    assert model.backend.describe().startswith("TensorRT"), model.choice
    reference = Upscaler.from_bundle(folder, backend="onnxruntime")
    found, theirs = (each.upscale(picture, seed=3) for each in (model, reference))
    assert np.abs(found.astype(int) - theirs.astype(int)).max() <= 2


def test_onnx_runtime_computes_the_same_on_the_gpu(gpu, tmp_path):
    if not onnxruntime_cuda.is_installed():
        pytest.skip("the extra cuda is not installed")
    for folder in (BUILTIN, write_bundle(tmp_path / "toy", tiles=[(32, 32)])):
        opened = Bundle.open(folder)
        for graph in opened.manifest.graphs[:2]:
            values = inputs(opened, graph, 3)
            backend, _ = backends.create("onnxruntime-cuda")
            session = backend.load(opened, graph)
            assert not backend.describe().endswith("without CUDA graph")
            found = [session.run(*batch) for batch in values]
            pairs = zip(found, expected(opened, graph, values), strict=True)
            assert min(psnr(*pair) for pair in pairs) >= 60
