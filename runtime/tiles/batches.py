"""Fills batches with the tiles of several pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batches(Generic[Item, Result]):
    """Lets threads that have few items each share batches.

    A thread that finds nothing being computed computes the items that wait, its own among them.
    Those of other threads gather meanwhile. So nobody waits for a batch to fill, and the more
    threads there are, the fuller batches become.

    Args:
        size: most items of a batch. With 1 there is nothing to share: threads compute at the same
            time.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._changed = Condition()
        self._busy = False

    def run(
        self, items: Sequence[Item], compute: Callable[[list[Item]], Sequence[Result]]
    ) -> list[Result]:
        """The results of items, which may be computed by any thread.

        Args:
            items: any number of them.
            compute: takes a batch and gives a result for each item; the same in all threads.

        Raises:
            BaseException: what `compute` raises for a batch, all threads get that have items in it.
        """
        if self._size == 1:
            return [result for item in items for result in compute([item])]
        mine: list[tuple[Item, Future[Result]]] = [(item, Future()) for item in items]
        with self._changed:
            self._waiting += mine
            while not all(future.done() for _, future in mine):
                if self._busy:
                    self._changed.wait()
                else:
                    self._next(compute)
        return [future.result() for _, future in mine]

    def _next(self, compute: Callable[[list[Item]], Sequence[Result]]) -> None:
        """Compute a batch; the lock is held before and after, but not meanwhile."""
        batch = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
        self._busy = True
        self._changed.release()
        try:
            results = compute([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        except BaseException as error:
            for _, future in batch:
                future.set_exception(error)
            if not isinstance(error, Exception):  # an interrupt, whomever the items belong to
                raise
        finally:
            self._changed.acquire()
            self._busy = False
            self._changed.notify_all()
