"""The TensorRT backend, on a simulated GPU."""

import dataclasses
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kernels import hosted
from lpnsr.runtime import backends, bundle
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.cuda_replay import Replay
from lpnsr.runtime.backends.engine_files import EngineError
from lpnsr.runtime.backends.tensorrt import TensorRt
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.manifest import MANIFEST, BundleError
from lpnsr.runtime.pictures.images import Picture
from lpnsr.runtime.pictures.metadata import Metadata
from lpnsr.runtime.upscaler import UpscaleError, Upscaler

from . import simulated
from .toy import photo, write_bundle, write_staged_bundle

trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
pytest.importorskip("cuda.core", reason="the extra tensorrt-rtx is not installed")

NAME = "tensorrt-rtx"


@pytest.fixture(params=range(6))
def seed(request):
    return request.param


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return hosted.library("picture", tmp_path_factory.mktemp("host"))


@pytest.fixture
def gpu(monkeypatch, tmp_path, pictures):
    """Installs a simulated GPU: `gpu(seed)`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(seed=0, **options):
        device = simulated.Gpu(seed, **options)
        simulated.install(monkeypatch, device, pictures)
        return device

    return install


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A toy bundle with an engine of each graph; do not change its files."""
    folder = tmp_path_factory.mktemp("bundle") / "built"
    return with_engines(write_bundle(folder, color_limit=0.02))


def with_engines(folder, **changes):
    return simulated.with_engines(folder, NAME, trt.__version__, **changes)


def loaded(folder, index=0, **options):
    backend, opened = TensorRt(NAME, **options), Bundle.open(folder)
    graph = opened.manifest.graphs[index]
    return backend.load(opened, graph), opened, graph


def inputs(opened, graph, count):
    rng = np.random.default_rng(0)
    unrolled = dataclasses.replace(graph, stages=())  # takes the noise too
    *shapes, _ = bundle.shapes(opened.manifest, unrolled).values()
    return [
        tuple(rng.uniform(-0.9, 0.9, shape).astype(np.float32) for shape in shapes)
        for _ in range(count)
    ]


def expected(opened, graph, values):
    reference, _ = backends.create("onnxruntime")
    session = reference.load(opened, graph)
    return [session.run(*batch) for batch in values]


def results(session, values):
    return [session.run(*batch) for batch in values]


def test_batches_are_computed_as_on_a_cpu(gpu, built, seed):
    gpu(seed)
    session, opened, graph = loaded(built, 1)
    values = inputs(opened, graph, 3)
    np.testing.assert_array_equal(results(session, values), expected(opened, graph, values))
    with pytest.raises(BackendError, match=r"lr has the shape \(3, 3, 32, 31\), not"):
        session.run(values[0][0][..., 1:], values[0][1])


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_a_staged_chain_is_driven_as_on_a_cpu(gpu, tmp_path, seed, cuda_graph):
    gpu(seed)
    folder = with_engines(write_staged_bundle(tmp_path / "staged"))
    session, opened, graph = loaded(folder, cuda_graph=cuda_graph)
    values = inputs(opened, graph, 5)
    theirs = expected(opened, graph, values)
    np.testing.assert_array_equal(results(session, values), theirs)
    assert len({sr.tobytes() for sr in theirs}) == 5


def test_a_staged_chain_needs_all_its_engines(gpu, tmp_path):
    gpu()
    folder = with_engines(write_staged_bundle(tmp_path / "staged"))
    opened = Bundle.open(folder)
    fewer = with_manifest(opened, engines=opened.manifest.engines[:-1])
    with pytest.raises(EngineError, match=r"no tensorrt-rtx engine of toy_decoder\.onnx; run"):
        TensorRt(NAME).check(fewer, opened.manifest.graphs)


def test_work_is_captured_once_and_replayed(gpu, built, monkeypatch):
    gpu()
    monkeypatch.setattr(simulated.Graph, "replays", 0)
    session, opened, graph = loaded(built)
    results(session, inputs(opened, graph, 5))
    assert simulated.Graph.replays == 5
    direct, *_ = loaded(built, cuda_graph=False)
    values = inputs(opened, graph, 3)
    np.testing.assert_array_equal(results(direct, values), expected(opened, graph, values))
    assert simulated.Graph.replays == 5
    assert TensorRt(NAME, False).describe().endswith("on Simulated GPU without CUDA graph")


def test_a_picture_is_the_same_as_on_a_cpu(gpu, built, seed):
    gpu(seed)
    picture = photo(90, 70)
    small = {"tile": (32, 32), "batch": 3}
    model = Upscaler.from_bundle(built, backend=NAME, **small)
    reference = Upscaler.from_bundle(built, backend="onnxruntime", **small)
    np.testing.assert_array_equal(
        model.upscale(picture, seed=4), reference.upscale(picture, seed=4)
    )


@pytest.mark.parametrize("size", [(1, 1), (9, 200), (32, 32), (300, 20), (200, 90)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("color_fix", [True, False])
def test_pictures_of_all_sizes_are_the_same_as_on_a_cpu(gpu, built, size, dtype, color_fix):
    gpu(sum(size))
    picture = photo(*size).astype(dtype) * (257 if dtype == np.uint16 else 1)
    batch, options = 1 + 2 * (size[0] > 32), {"seed": 2**63, "color_fix": color_fix}
    for asked in (dtype, np.float32):
        made = []
        for backend in (NAME, "onnxruntime"):
            model = Upscaler.from_bundle(built, backend=backend, tile=(32, 32), batch=batch)
            bands = list(model.bands(picture, dtype=asked, deterministic=True, **options))
            assert all(band.dtype == asked for band in bands)
            made.append(np.concatenate(bands))
        ours, theirs = (np.asarray(picture, np.float64) for picture in made)
        assert ours.shape == (4 * size[0], 4 * size[1], 3)
        if asked == np.float32 or not color_fix:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
        else:  # sums of another order, at a rounding edge
            assert np.abs(ours - theirs).max() <= 1 and np.mean(ours == theirs) > 0.99


def test_little_travels_between_the_host_and_the_gpu(gpu, built, monkeypatch):
    gpu()
    model = Upscaler.from_bundle(built, backend=NAME, tile=(32, 32), batch=1)
    model.upscale(photo(32, 32))
    moved = []
    copy = simulated.Buffer.copy_from

    def counting(self, other, *, stream):
        moved.append(self.size)
        copy(self, other, stream=stream)

    monkeypatch.setattr(simulated.Buffer, "copy_from", counting)
    model.upscale(photo(300, 200))
    pixels = 3 * 300 * 200
    assert pixels * 17 < sum(moved) < pixels * 18


def test_a_plane_of_transparency_is_upscaled_at_the_same_time(gpu, built, seed):
    """Two pictures take turns on one GPU."""
    gpu(seed)
    picture = Picture(np.dstack([photo(90, 70), photo(90, 70)[::-1, :, :1]]), Metadata(), ())
    made = []
    for backend in (NAME, "onnxruntime"):
        model = Upscaler.from_bundle(built, backend=backend, tile=(32, 32), batch=3)
        bands = Recipe(alpha="model", seed=3).bands(model, picture, 4, np.dtype(np.uint8))
        made.append(np.concatenate(list(bands)))
    ours, theirs = made
    assert np.abs(ours.astype(int) - theirs).max() <= 1 and np.mean(ours == theirs) > 0.99


def test_a_picture_that_is_given_up_leaves_nothing_under_way(gpu, built, seed):
    device = gpu(seed)
    model = Upscaler.from_bundle(built, backend=NAME, tile=(32, 32), batch=1)
    picture = photo(120, 100)
    expected = model.upscale(picture)
    bands = model.bands(picture, dtype=np.uint8)
    next(bands)
    bands.close()
    assert not any(stream.queue for stream in device.streams.values())
    np.testing.assert_array_equal(model.upscale(picture), expected)


def test_threads_take_turns_on_one_graph(gpu, built, seed):
    gpu(seed)
    model = Upscaler.from_bundle(built, backend=NAME, tile=(32, 32), batch=3)
    pictures = [photo(40 + 10 * number, 90) for number in range(4)]
    expected = [model.upscale(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(model.upscale, pictures))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_small_pictures_share_batches(gpu, built, seed, monkeypatch):
    gpu(seed)
    model = Upscaler.from_bundle(built, backend=NAME, tile=(32, 32), batch=3)
    reference = Upscaler.from_bundle(built, backend="onnxruntime", tile=(32, 32), batch=3)
    pictures = [photo(20 + number, 30) for number in range(12)]
    run = Replay.run
    monkeypatch.setattr(Replay, "run", lambda *batch: time.sleep(0.02) or run(*batch))
    monkeypatch.setattr(simulated.Graph, "replays", 0)
    found = model.upscale(pictures, seed=5)
    assert 4 <= simulated.Graph.replays < 12
    for ours, picture in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(ours, reference.upscale(picture, seed=5))


def test_pictures_are_upscaled_while_bands_are_open(gpu, built, seed):
    gpu(seed)
    model = Upscaler.from_bundle(built, backend=NAME, batch=1)
    large, small = photo(150, 40), photo(30, 30)
    expected, parts = (model.upscale(large), model.upscale(small)), []
    for band in model.bands(large, dtype=np.uint8):
        parts.append(band)
        np.testing.assert_array_equal(model.upscale(small), expected[1])
    np.testing.assert_array_equal(np.concatenate(parts), expected[0])


def test_a_gpu_that_is_not_there_is_refused(gpu, built):
    gpu()
    assert "Simulated GPU" in Upscaler.from_bundle(built, device="cuda:0").choice
    with pytest.raises(BackendError, match="no NVIDIA GPU 1 can be used"):
        Upscaler.from_bundle(built, backend=NAME, device="cuda:1")
    with pytest.raises(BackendError, match=r"cannot be run on a GPU: .*no NVIDIA GPU 1"):
        Upscaler.from_bundle(built, device="cuda:1")


def test_progress_is_that_of_the_gpu(gpu, built):
    device, seen = gpu(), []

    def report(done, total):
        work = sum(len(stream.queue) for stream in device.streams.values())
        seen.append((done, total, work))

    model = Upscaler.from_bundle(built, backend=NAME, tile=(32, 32), batch=3)
    model.upscale(photo(90, 70), progress=report)
    done, totals, work = zip(*seen, strict=True)
    assert done == (0, *range(3, totals[0], 3), totals[0]) and len(set(totals)) == 1
    assert max(work) < 60  # two batches at most


def test_what_was_compiled_is_kept_for_the_next_start(gpu, built, tmp_path):
    device = gpu()
    loaded(built)
    assert device.cache == []
    (kept,) = (tmp_path / "cache" / "lpnsr" / "compiled").iterdir()
    assert kept.name.endswith(".simulated-gpu.jit")
    loaded(built)
    assert device.cache == [b"compiled"]


def test_auto_takes_the_gpu_and_says_so(gpu, built):
    gpu()
    choice = Upscaler.from_bundle(built).choice
    assert choice == f"TensorRT-RTX {trt.__version__} on Simulated GPU (the fastest here)"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpus": ("sm_120",)}, "the tensorrt-rtx engine is for sm_120, the GPU is sm_89"),
        ({"version": "1.0"}, "was built by tensorrt-rtx 1.0, here is"),
        ({"sources": {}}, "was built from another"),
    ],
)
def test_auto_does_without_an_engine_that_does_not_fit_and_says_so(gpu, tmp_path, changes, reason):
    gpu()
    folder = with_engines(write_bundle(tmp_path / "own"), **changes)
    model = Upscaler.from_bundle(folder)
    assert "on the CPU" in model.choice
    command = f"run: lpnsr-export --bundle {folder} --engine {NAME} --gpu sm_89"
    assert f"; not {NAME}: " in model.choice
    assert reason in model.choice and command in model.choice
    assert model.upscale(photo(20, 20)).shape == (80, 80, 3)
    with pytest.raises(EngineError, match=re.escape(command)):
        Upscaler.from_bundle(folder, backend=NAME)


def test_auto_does_without_a_gpu_and_says_so(built, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    choice = Upscaler.from_bundle(built).choice
    assert "on the CPU" in choice and 'pip install "lpnsr[tensorrt-rtx]"' in choice


def test_a_machine_without_a_gpu_is_told_so(built):
    with pytest.raises(BackendError, match=r"no NVIDIA GPU 0 can be used: .+") as raised:
        TensorRt(NAME)
    assert "\n" not in str(raised.value)


def test_only_the_graphs_that_may_run_need_engines(gpu, tmp_path):
    gpu()
    folder = with_engines(write_bundle(tmp_path / "own"))
    opened = Bundle.open(folder)
    kept = opened.manifest.engines[:1]
    manifest = dataclasses.replace(opened.manifest, engines=kept)
    (folder / MANIFEST).write_text(manifest.to_json())
    with pytest.raises(EngineError, match=r"has no tensorrt-rtx engine of toy-32x32-b3\.onnx; run"):
        Upscaler.from_bundle(folder, backend=NAME)
    graph = opened.manifest.graphs[0]
    Upscaler.from_bundle(folder, backend=NAME, tile=graph.tile, batch=graph.batch)


def test_a_driver_that_is_too_old_is_named(gpu, tmp_path):
    gpu()
    folder = with_engines(write_bundle(tmp_path / "own"))
    opened = Bundle.open(folder)
    graph = opened.manifest.graphs[0]
    engine = opened.manifest.engines[0]
    (folder / engine.file).write_bytes(b"no engine")
    digest = bundle.sha256(folder / engine.file)
    opened = with_manifest(opened, engines=(dataclasses.replace(engine, sha256=digest),))
    with pytest.raises(EngineError, match=r"cannot be used here \(old cuda driver\); update"):
        TensorRt(NAME).load(opened, graph)


def with_manifest(opened, **changes):
    return Bundle(opened.path, dataclasses.replace(opened.manifest, **changes))


def test_a_damaged_engine_is_refused(gpu, tmp_path):
    gpu()
    folder = with_engines(write_bundle(tmp_path / "own"))
    opened = Bundle.open(folder)
    file = opened.path / opened.manifest.engines[0].file
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(EngineError, match="is missing or damaged; run: lpnsr-export --bundle"):
        TensorRt(NAME).load(opened, opened.manifest.graphs[0])


def test_an_engine_that_is_not_what_the_manifest_says_is_refused(gpu, built):
    gpu()
    opened = Bundle.open(built)
    with pytest.raises(BundleError, match="the manifest"):
        TensorRt(NAME).load(with_manifest(opened, scale=2), opened.manifest.graphs[0])


def test_exhausted_memory_is_a_memory_error(gpu, built):
    gpu(memory=10_000)
    with pytest.raises(MemoryError, match="cannot start: CUDA_ERROR_OUT_OF_MEMORY"):
        loaded(built)


@pytest.mark.parametrize("batch", [1, 3])
def test_numbers_out_of_range_name_the_export_that_helps(gpu, tmp_path, batch):
    gpu()
    narrow = {"denoiser": "fp16"}
    folder = with_engines(write_bundle(tmp_path / "own", precision=narrow))
    model = Upscaler.from_bundle(folder, backend=NAME, batch=batch)
    with pytest.raises(UpscaleError, match="lpnsr-export --precision fp32 --engine tensorrt-rtx"):
        model.upscale(np.full((20, 20, 3), 255, np.uint8))


def test_one_bad_tile_fails_its_picture_alone(gpu, built):
    gpu()
    picture = photo(90, 70)
    model = Upscaler.from_bundle(built, backend=NAME, tile=(32, 32), batch=1)
    fine = model.upscale(picture)
    spoilt = picture.copy()
    spoilt[:40, :40] = 255  # the toy model returns no number for white
    with pytest.raises(UpscaleError, match=r"row 0, column 0; try another model or seed"):
        model.upscale(spoilt)
    np.testing.assert_array_equal(model.upscale(picture), fine)


def test_a_precision_cannot_be_asked_of_an_engine(gpu, built):
    gpu()
    with pytest.raises(BackendError, match="leave out --precision"):
        Upscaler.from_bundle(built, backend=NAME, precision="fp32")
