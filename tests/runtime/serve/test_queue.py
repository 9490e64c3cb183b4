"""The queue is bounded, and nobody works for those who have gone."""

import threading
import time
from contextlib import contextmanager

import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from lpnsr.runtime.upscaler import Description, Upscaler

from ..samples import png
from ..toy import photo, write_bundle
from .served import Gated, served

SMALL, LARGE = png(photo(20, 20)), png(photo(300, 300))


@pytest.fixture
def gated(bundle):
    """Makes a server whose model waits at every tile; gives its client and its engine."""

    @contextmanager
    def gated(**limits):
        engine = Gated()
        with served(Upscaler(Description(bundle), engine), **limits) as client:
            try:
                yield client, engine
            finally:
                engine.open()

    return gated


def started(client, path="/upscale", **options):
    """A request in a thread; its answer is put into the list."""
    answers = []
    thread = threading.Thread(target=lambda: answers.append(client("POST", path, SMALL, **options)))
    thread.start()
    return thread, answers


def test_a_full_queue_refuses(gated):
    with gated(parallel=1, waiting=1) as (client, engine):
        first, second = started(client), started(client)
        client.wait_for("lpnsr_queue", 2)
        refused = client("POST", "/upscale", SMALL)
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "try again in" in refused.error
        assert client("GET", "/v2/health/ready").status == 503
        assert client("GET", "/v2/health/live").status == 200
        engine.open()
        for thread, answers in (first, second):
            thread.join()
            assert answers[0].status == 200
        assert client("GET", "/v2/health/ready").status == 200


@pytest.mark.parametrize("in_work", [True, False])
def test_who_hangs_up_frees_the_place(gated, in_work):
    with gated(parallel=1, waiting=2) as (client, engine):
        if not in_work:
            other = started(client)
            client.wait_for("lpnsr_queue", 1)
        connection = client.connect()
        head = f"POST /upscale HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(LARGE)}\r\n\r\n"
        connection.sendall(head.encode() + LARGE)
        client.wait_for("lpnsr_queue", 1 if in_work else 2)
        if in_work:
            engine.gate.release()
            while len(engine.calls) < 1:
                time.sleep(0.02)
        connection.close()
        client.wait_for('lpnsr_requests_total{path="/upscale",status="499"}', 1)
        if in_work:
            engine.gate.release()  # of the tile that was under way
            client.wait_for("lpnsr_queue", 0)
            assert len(engine.calls) == 2
        else:
            client.wait_for("lpnsr_queue", 1)
            engine.open()
            other[0].join()
            assert len(engine.calls) == 1


def test_a_limit_of_time(gated):
    with gated(parallel=1, waiting=1, seconds=0.5) as (client, engine):
        answer = client("POST", "/upscale", SMALL)
        assert (answer.status, answer.error.startswith("the picture takes too long")) == (504, True)
        assert client.metric("lpnsr_queue") == 1  # the tile under way cannot be stopped
        engine.open()
        client.wait_for("lpnsr_queue", 0)
        assert client("POST", "/upscale", SMALL).status == 200


def test_progress(gated):
    with gated() as (client, engine):
        thread, answers = started(client, headers={"X-Request-Id": "mine"})
        client.wait_for("lpnsr_queue", 1)
        while (progress := client("GET", "/progress/mine").json())["total"] == 0:
            time.sleep(0.02)
        assert progress == {"done": 0, "total": 1}
        twice = client("POST", "/upscale", SMALL, {"X-Request-Id": "mine"})
        assert twice.status == 409
        engine.open()
        thread.join()
        assert answers[0].status == 200
        assert client("GET", "/progress/mine").status == 404


class Watched(Gated):
    """Keeps its session in sight."""

    def load(self, bundle, graph):
        self.session = super().load(bundle, graph)
        return self.session


def test_requests_share_batches(tmp_path):
    """The first one computes alone; those that gather meanwhile fill the next batch."""
    folder = write_bundle(tmp_path / "threes", tiles=((32, 32),), batches=(3,))
    engine = Watched()
    with served(Upscaler(Description(folder), engine), parallel=4) as client:
        first = started(client)
        while not hasattr(engine, "session") or not engine.session.batches._busy:
            time.sleep(0.02)
        others = [started(client) for _ in range(3)]
        while len(engine.session.batches._waiting) < 3:
            time.sleep(0.02)
        engine.open()
        for thread, answers in (first, *others):
            thread.join()
            assert answers[0].status == 200
        assert len(engine.calls) == 2
