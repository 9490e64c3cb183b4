"""Fixtures for the tests of the runtime."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
from PIL import Image

from .toy import write_bundle


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle in which noise matters; do not change its files."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "toy")


@pytest.fixture(scope="session")
def calm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy bundle that ignores its noise and bears white; do not change its files."""
    folder = tmp_path_factory.mktemp("bundle") / "calm"
    return write_bundle(folder, noise_gain=0.0, fragile=False)


@pytest.fixture
def own_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Makes a toy bundle that the test may damage; takes manifest fields to change."""
    return lambda **changes: write_bundle(tmp_path / "own", **changes)


@pytest.fixture(autouse=True)
def limits() -> Iterator[None]:
    """Undoes what a run of the command sets for its own process."""
    pixels, threads = Image.MAX_IMAGE_PIXELS, cv2.getNumThreads()
    yield
    Image.MAX_IMAGE_PIXELS = pixels
    cv2.setNumThreads(threads)


@pytest.fixture
def allow_threads(monkeypatch):
    """`allow_threads(count)`: the system refuses to start more than so many from now on."""

    def allow(count):
        begin, left = threading.Thread.start, [None] * count

        def start(thread):
            if not left:
                raise RuntimeError("can't start new thread")
            left.pop()
            begin(thread)

        monkeypatch.setattr(threading.Thread, "start", start)

    return allow
