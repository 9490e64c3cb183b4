import queue
import threading
import time

import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.command import memory, pipeline
from lpnsr.runtime.command.channels import Channel
from lpnsr.runtime.command.jobs import Job
from lpnsr.runtime.command.pipeline import Pipeline, PipelineError
from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures import formats, images
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.pictures.images import Header
from lpnsr.runtime.upscaler import Description, Upscaler

from .toy import Grey, photo


@pytest.fixture
def model(bundle):
    return Upscaler(Description(bundle, tile=(32, 32), batch=1), Grey())


def jobs(folder, count, size=(20, 20)):
    (folder / "in").mkdir()
    for number in range(count):
        Image.fromarray(photo(*size)).save(folder / "in" / f"{number}.png")
    return [
        Job(folder / "in" / f"{number}.png", folder / "out" / f"{number}.png")
        for number in range(count)
    ]


def start(model, jobs, stop=None, progress=lambda job, done, total: None, kind="png"):
    stop = stop or threading.Event()
    line = Pipeline(model, Recipe(), FORMATS[kind], 95, lambda text: None, progress, stop)
    return line.run(jobs)


def test_decoding_and_encoding_overlap_with_computing(tmp_path, model, monkeypatch):
    """While a picture is computed, the next one is decoded and the one before is encoded."""
    todo = jobs(tmp_path, 6)
    decoded, encoding = ({job: threading.Event() for job in todo} for _ in range(2))
    by_path = {path: job for job in todo for path in (job.source, job.target)}
    read, write = images.read, formats.write

    def note_read(path, salvage):
        picture = read(path, salvage)
        decoded[by_path[path]].set()
        return picture

    def note_write(path, *arguments):
        encoding[by_path[path]].set()
        return write(path, *arguments)

    def progress(job, done, total):
        index = todo.index(job)
        for other in todo[index + 1 : index + 2]:
            assert decoded[other].wait(60)
        for other in todo[max(index - 1, 0) : index]:
            assert encoding[other].wait(60)

    monkeypatch.setattr(images, "read", note_read)
    monkeypatch.setattr(formats, "write", note_write)
    outcomes = list(start(model, todo, progress=progress))
    assert {outcome.job for outcome in outcomes} == set(todo)
    assert all(outcome.error is None for outcome in outcomes)
    assert all(set(outcome.seconds) == {"decode", "compute", "encode"} for outcome in outcomes)


def test_few_pictures_wait_in_memory(tmp_path, model, monkeypatch):
    monkeypatch.setattr(pipeline, "_PIXELS", 900)  # two of 400 pixels
    read, decoded, most = images.read, [], []

    def count(path, salvage):
        decoded.append(path)
        return read(path, salvage)

    def progress(job, done, total):
        most.append(len(decoded) - int(job.source.stem))

    monkeypatch.setattr(images, "read", count)
    list(start(model, jobs(tmp_path, 12), progress=progress))
    assert len(decoded) == 12 and max(most) <= 2


def test_a_picture_beyond_the_limit_goes_alone(tmp_path, model, monkeypatch):
    monkeypatch.setattr(pipeline, "_PIXELS", 100)
    outcomes = list(start(model, jobs(tmp_path, 3)))
    assert [outcome.error for outcome in outcomes] == [None] * 3


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_only_one_encoder_at_a_time_holds_a_large_picture(tmp_path, model, monkeypatch, kind):
    monkeypatch.setattr(pipeline, "_BULKY", 0)
    write, open_now, most = formats.write, set(), []

    def note_write(path, *arguments):
        open_now.add(path)
        time.sleep(0.1)
        digest = write(path, *arguments)
        open_now.remove(path)
        return digest

    def progress(job, done, total):
        if done == 0:
            most.append(len(open_now - {job.target}))

    monkeypatch.setattr(formats, "write", note_write)
    list(start(model, jobs(tmp_path, 4), progress=progress, kind=kind))
    assert len(most) == 4 and (max(most) == 0) == (kind == "jpeg")


def test_memory_is_asked_for_once_a_large_picture_has_left(tmp_path, model, monkeypatch):
    monkeypatch.setattr(pipeline, "_PIXELS", 100)
    asked, begun = [], []
    monkeypatch.setattr(
        "lpnsr.runtime.command.memory.check", lambda needed: asked.append(len(begun))
    )

    def progress(job, done, total):
        if done == 0:
            time.sleep(0.05)
            begun.append(job)

    list(start(model, jobs(tmp_path, 4), progress=progress))
    assert asked == [0, 1, 2, 3]


def test_stopping_drops_the_picture_in_work(tmp_path, model):
    stop = threading.Event()

    def progress(job, done, total):
        if job.source.stem == "2" and done == 1:
            stop.set()

    outcomes = list(start(model, jobs(tmp_path, 6, (20, 90)), stop, progress))
    assert {outcome.job.source.stem for outcome in outcomes} == {"0", "1"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]
    assert all(outcome.sha256 for outcome in outcomes)


def test_leaving_early_leaves_nothing_behind(tmp_path, model):
    run = start(model, jobs(tmp_path, 6))
    next(run)
    run.close()
    assert not list(tmp_path.rglob("*.lpnsr-partial"))


def test_a_failing_engine_ends_the_run(tmp_path, bundle):
    class Broken(Grey):
        def run(self, lr, noise):
            raise BackendError("the device is gone")

    model = Upscaler(Description(bundle), Broken())
    with pytest.raises(BackendError, match="gone"):
        list(start(model, jobs(tmp_path, 3)))
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))


def test_an_encoder_that_fails_is_one_picture(tmp_path, model, monkeypatch):
    todo = jobs(tmp_path, 4, (20, 90))
    todo[1] = Job(todo[1].source, tmp_path / "in" / "0.png" / "no-folder.png")
    outcomes = {outcome.job: outcome for outcome in start(model, todo)}
    assert [outcomes[job].error is None for job in todo] == [True, False, True, True]
    assert "cannot write" in outcomes[todo[1]].error


def test_an_encoder_without_memory_says_so(tmp_path, model, monkeypatch):
    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(formats, "write", exhausted)
    (outcome,) = start(model, jobs(tmp_path, 1))
    assert outcome.error == f"cannot write {outcome.job.target}: not enough memory"


def test_memory_is_asked_for_before_decoding(tmp_path, model, monkeypatch):
    asked = []
    monkeypatch.setattr("lpnsr.runtime.command.memory.check", asked.append)
    list(start(model, jobs(tmp_path, 1)))
    header = Header((20, 20), 3, 8)
    computing = model.memory((20, 20))
    assert asked == [memory.needed(header, (80, 80), FORMATS["png"], computing)]


def test_the_memory_needed():
    rgb, png, jpeg = Header((10, 10), 3, 8), FORMATS["png"], FORMATS["jpeg"]
    assert memory.needed(rgb, (40, 40), png, 0) == 100 * (12 + 6)
    assert memory.needed(rgb, (40, 40), png, 5000) == 100 * (3 + 3) + 5000
    assert memory.needed(rgb, (40, 40), jpeg, 5000) == 100 * (3 + 3) + 5000 + 4 * 1600
    webp = FORMATS["webp"]
    assert memory.needed(rgb, (40, 40), webp, 5000) == 100 * (3 + 3) + 5000 + 40 * 1600
    assert memory.needed(Header((10, 10), 4, 16), (40, 40), png, 0) == 100 * (8 + 6 + 32)


def test_outcomes_come_when_they_are_known(tmp_path, model, monkeypatch):
    """The first picture takes long to write; the others do not wait for it."""
    todo, write, others = jobs(tmp_path, 3), formats.write, threading.Event()

    def slow(path, *arguments):
        digest = write(path, *arguments)
        if path == todo[0].target:
            assert others.wait(60)
        return digest

    monkeypatch.setattr(formats, "write", slow)
    run = start(model, todo)
    assert {next(run).job for _ in range(2)} == set(todo[1:])
    others.set()
    assert [outcome.job for outcome in run] == todo[:1]


def test_jobs_may_come_one_by_one(tmp_path, model):
    """Each outcome is there before the next job is."""
    todo, coming = jobs(tmp_path, 3), queue.Queue()
    run = start(model, iter(coming.get, None))
    for job in todo:
        coming.put(job)
        assert next(run).job == job
    coming.put(None)
    assert list(run) == []


def test_a_run_stops_while_it_waits_for_a_job(tmp_path, model):
    todo, coming, stop = jobs(tmp_path, 1), queue.Queue(), threading.Event()
    coming.put(todo[0])
    run = start(model, iter(coming.get, None), stop)
    assert next(run).error is None
    stop.set()
    assert list(run) == []
    coming.put(None)


def test_an_error_of_the_jobs_is_that_of_the_run(tmp_path, model):
    def failing():
        yield from jobs(tmp_path, 1)
        raise KeyError("no such order")

    run = start(model, failing())
    assert next(run).error is None
    with pytest.raises(KeyError, match="no such order"):
        next(run)


def test_a_writer_that_fails_drains_what_is_queued():
    """Bands are arrays, which cannot be compared with what ends them."""
    channel = Channel()
    sender = threading.Thread(target=channel.send, args=([np.zeros((2, 2, 3))] * 20,))
    sender.start()
    channel.drain()
    sender.join(60)
    assert not sender.is_alive()


def test_an_encoder_may_fail_in_any_way(tmp_path, model, monkeypatch):
    """What nobody expects ends the run, without waiting for ever."""

    class Bug(Exception):
        pass

    def broken(path, kind, bands, layout):
        raise Bug

    monkeypatch.setattr(formats, "write", broken)
    with pytest.raises(Bug):
        list(start(model, jobs(tmp_path, 6, (20, 300))))


@pytest.mark.parametrize("spared", range(4))
def test_without_threads_a_run_does_not_begin(tmp_path, model, allow_threads, spared):
    todo = jobs(tmp_path, 2)
    allow_threads(spared)
    with pytest.raises(
        PipelineError, match=r"refuses to start threads .*can't start new thread.*ulimit"
    ):
        list(start(model, todo))
    assert not (tmp_path / "out").exists()
