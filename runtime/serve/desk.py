"""A bounded queue in front of the model, and threads that work through it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

from lpnsr.runtime.serve.refusals import Refusal

T = TypeVar("T")

_MEMORY = 0.8
"""Weight of earlier requests in the average duration."""

GONE = 499
"""Status of a request whose client has hung up; nobody sees it but the counters."""


class _Dropped(Exception):
    """Nobody waits for this work any longer."""


class Ticket:
    """How far the work for one request has come, and whether it is still wanted.

    Attributes:
        done: tiles that are upscaled.
        total: tiles in all; 0 before the work begins.
    """

    def __init__(self) -> None:
        self.done = self.total = 0
        self._unwanted = Event()

    def report(self, done: int, total: int) -> None:
        """Note the progress; called by the worker, whom it stops where nobody waits any longer."""
        if self._unwanted.is_set():
            raise _Dropped
        self.done, self.total = done, total

    def drop(self) -> None:
        """Let the work end at its next tile."""
        self._unwanted.set()


class Desk:
    """Takes a limited number of requests and works through them in order.

    All methods belong to the thread of the event loop.

    Args:
        parallel: pictures in progress at the same time: while one is decoded or encoded, the model
            has another.
        waiting: most requests that may wait in addition.

    Attributes:
        inside: requests that wait or are in progress.
    """

    def __init__(self, parallel: int, waiting: int) -> None:
        self._parallel, self._most = parallel, parallel + waiting
        self._threads = ThreadPoolExecutor(parallel, "upscale")
        self._usual = 1.0  # seconds of a request, on average
        self.inside = 0

    def is_full(self) -> bool:
        """Whether the next request would be refused."""
        return self.inside >= self._most

    def check(self) -> None:
        """Refuse a request where the queue is full.

        Raises:
            Refusal: it is; says when to try again.
        """
        if self.is_full():
            seconds = max(1, math.ceil(self._usual * self.inside / self._parallel))
            raise Refusal(
                503,
                f"{self.inside} pictures are waiting; try again in {seconds} s",
                {"Retry-After": str(seconds)},
            )

    async def work(
        self,
        call: Callable[[Ticket], T],
        ticket: Ticket,
        gone: asyncio.Future[None],
        seconds: float,
    ) -> T:
        """Run `call` in a thread when its turn comes; returns its result.

        A place in the queue is free again only when its thread is.

        Args:
            call: the work; asks the ticket at every tile whether to go on.
            ticket: of the request.
            gone: done once the client has hung up.
            seconds: that waiting and working may take.

        Raises:
            Refusal: the queue is full, the time is over, or the client has gone.
        """
        self.check()
        self.inside += 1
        loop = asyncio.get_running_loop()
        future = self._threads.submit(self._timed, call, ticket)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        result = asyncio.wrap_future(future)
        try:
            await asyncio.wait(
                (result, gone), timeout=max(0, seconds), return_when=asyncio.FIRST_COMPLETED
            )
            if result.done():
                return result.result()
            if gone.done():
                raise Refusal(GONE, "the client has hung up")
            raise Refusal(504, "the picture takes too long; crop or reduce it, or try again later")
        finally:
            ticket.drop()
            result.cancel()

    def _timed(self, call: Callable[[Ticket], T], ticket: Ticket) -> T:
        start = time.monotonic()
        ticket.report(0, 0)
        try:
            return call(ticket)
        finally:
            passed = time.monotonic() - start
            self._usual = _MEMORY * self._usual + (1 - _MEMORY) * passed

    def _leave(self) -> None:
        self.inside -= 1

    def close(self) -> None:
        """Take no more work, and wait for the end of what is under way."""
        self._threads.shutdown(wait=True, cancel_futures=True)
