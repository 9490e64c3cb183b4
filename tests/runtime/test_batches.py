"""Pictures that are upscaled at the same time share batches, and get what they get alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.command import cli
from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.command.pipeline import Pipeline, PipelineError
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.tiles.batches import Batches
from lpnsr.runtime.upscaler import Description, UpscaleError, Upscaler

from .toy import Grey, photo, write_bundle

WAIT = 60


class Gate:
    """Squares numbers; its first batch waits until it is let through."""

    def __init__(self):
        self.batches, self.started, self.open = [], threading.Event(), threading.Event()

    def __call__(self, numbers):
        self.batches.append(numbers)
        self.started.set()
        assert self.open.wait(WAIT)
        if 13 in numbers:
            raise ValueError("13")
        return [number**2 for number in numbers]


def together(size, *items):
    """What `Batches` gives each thread, where all but the first come while that one computes."""
    batches, gate = Batches(size), Gate()
    with ThreadPoolExecutor(len(items)) as threads:
        found = [threads.submit(batches.run, items[0], gate)]
        assert gate.started.wait(WAIT)
        for count, mine in enumerate(items[1:], 1):
            found.append(threads.submit(batches.run, mine, gate))
            while size > 1 and len(batches._waiting) < sum(map(len, items[1 : count + 1])):
                pass
        gate.open.set()
    return found, gate.batches


def test_what_gathers_meanwhile_fills_batches():
    found, batches = together(3, [1], [2, 3], [4], [5, 6])
    assert [future.result() for future in found] == [[1], [4, 9], [16], [25, 36]]
    assert batches == [[1], [2, 3, 4], [5, 6]]


def test_more_than_a_batch():
    found, batches = together(2, [1, 2, 3], [4, 5])
    assert [future.result() for future in found] == [[1, 4, 9], [16, 25]]
    assert batches == [[1, 2], [3, 4], [5]]


def test_nobody_waits_for_a_batch_to_fill():
    gate = Gate()
    gate.open.set()
    assert Batches(4).run([3], gate) == [9]


def test_an_error_is_for_those_who_share_the_batch():
    found, _ = together(2, [1], [2, 13], [4])
    assert found[0].result() == [1]
    with pytest.raises(ValueError, match="13"):
        found[1].result()
    assert found[2].result() == [16]


def test_batches_of_one_are_computed_at_the_same_time():
    meeting = threading.Barrier(2)

    def compute(numbers):
        meeting.wait(WAIT)
        return numbers

    batches = Batches(1)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda n: batches.run([n], compute), (1, 2))) == [[1], [2]]


@pytest.fixture(scope="module")
def threes(tmp_path_factory):
    """A bundle of batches of three alone, in which noise matters."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "threes", batches=(3,))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_who_shares_a_batch_makes_no_difference(threes, backend, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = Upscaler.from_bundle(threes, backend=backend)
    pictures = [photo(20 + 5 * k, 90 - 6 * k) for k in range(13)]
    alone = [model.upscale(picture, seed=9) for picture in pictures]
    for _ in range(3):
        for ours, theirs in zip(model.upscale(pictures, seed=9), alone, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_white_picture_is_the_only_one_to_fail(threes):
    """White makes the toy model's values infinite."""
    model = Upscaler.from_bundle(threes, backend="onnxruntime", tile=(32, 32))
    pictures = [photo(20, 20), np.full((20, 20, 3), 255, np.uint8)] * 4
    alone = model.upscale(pictures[0])

    def upscale(picture):
        try:
            return model.upscale(picture)
        except UpscaleError as error:
            return str(error)

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(upscale, pictures))
    for picture, error in zip(found[::2], found[1::2], strict=True):
        np.testing.assert_array_equal(picture, alone)
        assert error.startswith("the model returns NaN or infinity in the tile at row 0, column 0")


class Shy(Grey):
    """Nothing is finite at first; precisely, all is 1."""

    def run(self, lr, noise):
        found = super().run(lr, noise)
        return np.where(lr[:, :1, :1, :1] > 0, np.nan, found)

    def run_precisely(self, lr, noise):
        return super().run(lr, noise) + 1


def test_only_what_is_not_finite_is_taken_from_the_precise_values(threes):
    """Else a tile would depend on those that share its batch."""
    dark, light = (np.full((32, 32, 3), value, np.uint8) for value in (0, 200))
    picture = np.hstack([dark, light, dark])
    model = Upscaler(Description(threes, tile=(32, 32), overlap=0), Shy())
    found = model.upscale(picture, color_fix=False)
    assert [found[0, column, 0] for column in (0, 192, 383)] == [128, 255, 128]


class Slow(Grey):
    """Gives others the time to gather."""

    def run(self, lr, noise):
        time.sleep(0.02)
        return super().run(lr, noise)


def test_several_pictures_fill_batches(threes):
    engine = Slow()
    model = Upscaler(Description(threes, tile=(32, 32)), engine)
    assert model.parallel == 6
    model.upscale(np.stack([photo(20, 20)] * 60))
    assert 20 <= len(engine.calls) < 60
    calls = len(engine.calls)
    model.upscale([photo(20, 20)] * 3, progress=lambda done, total: None)
    assert len(engine.calls) == calls + 3


@pytest.fixture
def folder(tmp_path):
    """Small pictures, one of which fills batches by itself, and one is none."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(20):
        Image.fromarray(photo(20 + number, 30)).save(source / f"{number}.png")
    Image.fromarray(photo(100, 200)).save(source / "large.png")
    (source / "none.png").write_bytes(b"none")
    return source


def test_a_folder_gets_what_each_picture_gets(threes, folder, tmp_path):
    model = Upscaler.from_bundle(threes, backend="onnxruntime")
    words = [str(folder), "--model", str(threes), "--backend", "onnxruntime", "--quiet"]
    assert cli.main([*words, "-o", str(tmp_path / "out")]) == 1  # because of the one that is none
    written = sorted((tmp_path / "out").iterdir())
    assert len(written) == 21
    for path in written:
        with Image.open(folder / path.name) as small, Image.open(path) as large:
            np.testing.assert_array_equal(np.asarray(large), model.upscale(np.asarray(small)))


def run(model, folder, target, stop=None, progress=lambda job, done, total: None):
    stop = stop or threading.Event()
    todo = [Job(file, target / file.name) for file in sorted(folder.iterdir())]
    line = Pipeline(model, Recipe(), FORMATS["png"], 95, lambda text: None, progress, stop)
    return line.run(todo)


def test_a_folder_fills_batches(threes, folder, tmp_path):
    (folder / "large.png").unlink()
    engine = Slow()
    model = Upscaler(Description(threes, tile=(64, 64)), engine)
    outcomes = list(run(model, folder, tmp_path / "out"))
    assert sum(outcome.error is None for outcome in outcomes) == 20
    assert 7 <= len(engine.calls) < 20


def test_a_folder_stops_in_the_middle(threes, folder, tmp_path):
    stop, begun = threading.Event(), []

    def progress(job, done, total):
        begun.append(job)
        if len(begun) == 12:
            stop.set()

    outcomes = list(run(Upscaler(Description(threes), Slow()), folder, tmp_path, stop, progress))
    assert len(outcomes) < 22
    written = {outcome.job.target for outcome in outcomes if outcome.error is None}
    assert {path for path in tmp_path.iterdir() if path.is_file()} == written


def test_a_failing_engine_ends_the_run(threes, folder, tmp_path):
    class Broken(Grey):
        def run(self, lr, noise):
            raise BackendError("the device is gone")

    with pytest.raises(BackendError, match="gone"):
        list(run(Upscaler(Description(threes), Broken()), folder, tmp_path / "out"))


@pytest.mark.parametrize("spared", range(13))
def test_without_threads_a_run_does_not_begin(threes, folder, tmp_path, allow_threads, spared):
    model = Upscaler(Description(threes), Grey())
    allow_threads(spared)
    with pytest.raises(PipelineError, match="refuses to start threads"):
        list(run(model, folder, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
