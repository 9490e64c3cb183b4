"""What a command changes in its process: signals, and what decoders say."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from types import FrameType


@contextmanager
def signals() -> Iterator[tuple[Event, list[int]]]:
    """Let Ctrl-C and SIGTERM end the run in an orderly way: sets an event, lists the signals."""
    stop, received = Event(), []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        stop.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silence loggers and C libraries that comment on damaged pictures on stderr."""
    for name in ("PIL", "tifffile"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    sys.stderr.flush()
    before, descriptor = sys.stderr, os.dup(2)
    with (
        open(os.devnull, "wb") as null,
        open(os.dup(2), "w", buffering=1, errors="backslashreplace") as own,
    ):
        os.dup2(null.fileno(), 2)
        sys.stderr = own
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(descriptor, 2)
            os.close(descriptor)
