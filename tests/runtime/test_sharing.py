"""One upscaler in several hands: threads, open generators, other processes, a memory limit."""

import multiprocessing
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from lpnsr.runtime.backends import pool
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.onnxruntime import OnnxRuntime
from lpnsr.runtime.backends.pool import SessionPool
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.upscaler import Description, Upscaler

from .toy import TILES, Grey, photo, write_bundle, write_staged_bundle

SIZES = ((20, 20), (32, 60), (60, 60), (33, 130), (100, 90), (64, 64), (1, 1), (40, 31))
BACKENDS = ("onnxruntime", "openvino")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("memory", [0, 2**40], ids=["little", "much"])
def test_eight_threads_get_what_one_gets(bundle, backend, memory):
    """Also where hardly a graph may stay loaded."""
    pictures = [photo(*size) for size in SIZES]
    single = Upscaler.from_bundle(bundle, backend=backend)
    expected = [single.upscale(picture, seed=k) for k, picture in enumerate(pictures)]
    shared = Upscaler.from_bundle(bundle, backend=backend, memory=memory)
    together = threading.Barrier(len(SIZES))

    def upscale(number):
        together.wait(60)
        orders = [(number + turn) % len(SIZES) for turn in range(len(SIZES))]
        return {k: shared.upscale(pictures[k], seed=k) for k in orders}

    with ThreadPoolExecutor(len(SIZES)) as threads:
        for found in threads.map(upscale, range(len(SIZES))):
            for k, picture in found.items():
                np.testing.assert_array_equal(picture, expected[k])


def test_threads_share_a_staged_graph(tmp_path):
    folder = write_staged_bundle(tmp_path / "staged")
    model = Upscaler.from_bundle(folder, backend="onnxruntime")
    pictures = [photo(40 + 8 * k, 90) for k in range(8)]
    expected = [model.upscale(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(model.upscale, pictures))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pictures_are_upscaled_while_bands_are_open(bundle, backend):
    model = Upscaler.from_bundle(bundle, backend=backend, memory=0)
    large, small = photo(200, 40), photo(30, 30)
    expected = model.upscale(large), model.upscale(small)
    bands, parts = model.bands(large, dtype=np.uint8), []
    for band in bands:
        parts.append(band)
        np.testing.assert_array_equal(model.upscale(small), expected[1])
        np.testing.assert_array_equal(model.upscale(large), expected[0])
    assert len(parts) > 1
    np.testing.assert_array_equal(np.concatenate(parts), expected[0])


def test_a_graph_is_loaded_once(bundle):
    engine = Grey()
    model = Upscaler(Description(bundle), engine)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(model.upscale, [photo(*size) for size in SIZES * 3]))
    assert len(engine.loaded) == len({graph.file for graph in engine.loaded}) <= len(TILES)


def graphs(count):
    return [Graph(f"{number}.onnx", (32, 32), 1, {}) for number in range(count)]


def pool_of(limit, fails=()):
    """Each graph takes one byte; lists what is loaded, which may fail some times."""
    loaded, fails = [], list(fails)

    def load(graph, divided):
        loaded.append(graph.file + " divided" * divided)
        if fails and fails.pop(0):
            raise MemoryError
        return SimpleNamespace(graph=graph)

    return SessionPool(load, lambda graph: 1, limit), loaded


def use(sessions, *used):
    for graph in used:
        with sessions.use(graph) as session:
            assert session.graph == graph


def test_the_least_recently_used_goes_first():
    sessions, loaded = pool_of(2)
    a, b, c = graphs(3)
    use(sessions, a, b, a, c, a, b)
    assert loaded == ["0.onnx", "1.onnx", "2.onnx", "1.onnx"]


def test_what_is_in_use_stays():
    sessions, loaded = pool_of(1)
    a, b, _ = graphs(3)
    with sessions.use(a), sessions.use(b):
        use(sessions, a, b)
        assert loaded == ["0.onnx", "1.onnx"]
    use(sessions, b, a)
    assert loaded == ["0.onnx", "1.onnx", "1.onnx", "0.onnx"]


def test_company_uses_another_session():
    sessions, loaded = pool_of(9)
    a, b, _ = graphs(3)
    with sessions.use(a, divisible=True), sessions.use(b, divisible=True), sessions.use(a):
        use(sessions, b)
    with sessions.use(a, divisible=True):
        pass
    assert loaded == ["0.onnx", "1.onnx divided", "1.onnx"]


def test_several_tiles_are_company():
    sessions, loaded = pool_of(9)
    (a,) = graphs(1)
    for divisible, several in ((True, True), (True, False), (False, True)):
        with sessions.use(a, divisible, several):
            pass
    assert loaded == ["0.onnx divided", "0.onnx"]


@pytest.mark.parametrize(("memory", "shares"), [(2**30, 3), (2 * 150_000_000, 2), (0, 1)])
def test_tiles_divide_the_threads_as_far_as_memory_allows(tmp_path, memory, shares, monkeypatch):
    folder = write_bundle(tmp_path / "toy", batches=(1,))
    options = {"backend": "onnxruntime", "threads": 3}
    model = Upscaler.from_bundle(folder, memory=memory, **options)
    assert model.parallel == shares
    threads = []
    load = OnnxRuntime.load

    def spied(engine, bundle, graph):
        threads.append(engine.threads)
        return load(engine, bundle, graph)

    monkeypatch.setattr(OnnxRuntime, "load", spied)
    large, small = photo(90, 150), photo(20, 20)
    expected = [Upscaler.from_bundle(folder, **options).upscale(each) for each in (large, small)]
    threads.clear()
    bands = model.bands(large, dtype=np.uint8)
    parts = [next(bands)]
    np.testing.assert_array_equal(model.upscale(small), expected[1])
    assert threads == [3 // shares] * 2
    np.testing.assert_array_equal(np.concatenate([*parts, *bands]), expected[0])
    np.testing.assert_array_equal(model.upscale(small), expected[1])
    assert threads[2:] == ([] if shares == 1 and memory else [3])
    np.testing.assert_array_equal(model.upscale([small, large, small])[1], expected[0])


@pytest.fixture
def lanes(tmp_path, monkeypatch):
    """A model of one graph that computes two tiles at a time."""
    model = Upscaler(Description(write_bundle(tmp_path / "toy", batches=(1,)), tile=(32, 32)))
    engine = Grey(lanes=2)
    monkeypatch.setattr(model, "backend", engine)
    monkeypatch.setattr(model, "_shares", 2)
    return model, engine


def test_tiles_of_a_picture_are_computed_side_by_side(lanes, monkeypatch):
    model, engine = lanes
    together, picture = threading.Barrier(2), photo(32, 56)  # two tiles

    def run(lr, noise):
        together.wait(60)  # breaks where only one is computed at a time
        return np.repeat(np.repeat(lr, 4, axis=2), 4, axis=3)

    monkeypatch.setattr(engine, "run", run)
    found = model.upscale(picture, color_fix=False)
    expected = np.repeat(np.repeat(picture, 4, axis=0), 4, axis=1)
    np.testing.assert_array_equal(found, expected)


def test_a_tile_that_fails_ends_the_picture(lanes, monkeypatch):
    model, engine = lanes

    def run(lr, noise):
        engine.calls.append(lr)
        raise BackendError("the engine fails")

    monkeypatch.setattr(engine, "run", run)
    with pytest.raises(BackendError, match="the engine fails"):
        model.upscale(photo(300, 300))
    assert len(engine.calls) <= 4  # of many tiles: those that had begun


def test_batches_of_several_tiles_are_shared_instead(bundle):
    model = Upscaler.from_bundle(bundle, backend="onnxruntime", threads=3, batch=3)
    assert model.parallel == 6
    assert Upscaler.from_bundle(bundle, backend="openvino", batch=1).parallel == 1


def test_without_memory_the_others_are_given_up():
    sessions, loaded = pool_of(9, [False, True, False])
    a, b = graphs(2)
    use(sessions, a, b, a)
    assert loaded == ["0.onnx", "1.onnx", "1.onnx", "0.onnx"]


def test_what_cannot_be_loaded_is_tried_again_the_next_time():
    sessions, loaded = pool_of(9, [True, True])
    (a,) = graphs(1)
    with pytest.raises(MemoryError):
        use(sessions, a)
    use(sessions, a)
    assert loaded == ["0.onnx"] * 3


def test_the_estimate_grows_with_weights_and_pixels(bundle):
    opened = Bundle.open(bundle)
    for graph in opened.manifest.graphs:
        size = (opened.path / graph.file).stat().st_size
        pixels = graph.batch * graph.tile[0] * graph.tile[1]
        assert pool.estimate(opened, graph) == 4 * size + 32768 * pixels


def test_a_context_gives_the_graphs_up(bundle):
    with Upscaler.from_bundle(bundle) as model:
        expected = model.upscale(photo(20, 20))
        bands = model.bands(photo(200, 20), dtype=np.uint8)
        next(bands)
    with pytest.raises(ValueError, match="the upscaler is closed"):
        model.upscale(photo(20, 20))
    assert list(bands)  # what was under way is finished
    assert expected.shape == (80, 80, 3)


def test_the_description_says_everything(bundle, monkeypatch):
    monkeypatch.chdir(bundle.parent)
    options = {"backend": "onnxruntime", "device": "cpu", "tile": (32, 64), "batch": 3}
    options |= {"overlap": 8, "threads": 1, "precision": "fp32", "memory": 2**30}
    model = Upscaler.from_bundle(bundle.name, **options)
    assert model.description == Description(bundle, **options)
    again = pickle.loads(pickle.dumps(model))
    assert again.description == model.description
    picture = photo(50, 90)
    np.testing.assert_array_equal(again.upscale(picture), model.upscale(picture))


def test_a_process_makes_one_of_its_own(bundle):
    model = Upscaler.from_bundle(bundle, backend="onnxruntime")
    pictures = [photo(20, 20), photo(40, 70)]
    expected = [model.upscale(picture) for picture in pictures]
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        found = workers.map(model.upscale, pictures)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_engine_of_ones_own_cannot_be_pickled(bundle):
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Upscaler(Description(bundle), Grey()))


def test_an_unknown_device_is_refused(bundle):
    with pytest.raises(BackendError, match="OpenVINO has no device cuda:1; it runs on cpu"):
        Upscaler.from_bundle(bundle, backend="openvino", device="cuda:1")


def test_a_lighter_layout_is_for_the_picture_at_hand(bundle):
    model = Upscaler.from_bundle(bundle, backend="onnxruntime", tile=(64, 64), batch=3)
    size = (60, 60)
    usual = model.layout(size)
    lighter = model.lighter(size, usual)
    assert (str(usual), str(lighter)) == ("tile 64x64 batch 3", "tile 64x64 batch 1")
    assert model.layout(size) == usual
    with pytest.raises(MemoryError, match="crop or split"):
        while True:
            lighter = model.lighter(size, lighter)
    assert str(lighter) == "tile 32x32 batch 1"
