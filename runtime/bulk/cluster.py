"""Workers that Ray starts, places and restarts: an actor for every GPU or group of cores.

Only numbers of shards and counts of pictures pass through Ray.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.registry import BACKENDS
from lpnsr.runtime.bulk.worker import Worker
from lpnsr.runtime.command.jobs import JobError

LOCAL = "local"
"""Means a cluster of this machine alone, that ends with this process."""

_CORES = 4
"""Of a worker without a GPU, where a machine has as many."""

_STORE = 80 * 2**20
"""Bytes of Ray's own store on this machine; the least that Ray takes."""

_PATIENCE = 0.5
"""Seconds between checks for whether to stop."""


class Actor:
    """A worker in a process of its own; takes the arguments of `Worker`."""

    def __init__(self, run: str, model: Path | None, threads: int | None) -> None:
        self._arguments = run, model, threads
        self._worker: Worker | None = None

    def start(self) -> str:
        """Load the engine; returns which one it is."""
        return self._started().choice

    def work(self, shard: int) -> tuple[int, int]:
        """See `Worker.work`; if the engine is lost, so is this process, and Ray starts another."""
        worker = self._started()
        try:
            return worker.work(shard)
        except BackendError as error:
            print(f"the engine is lost: {error}", file=sys.stderr, flush=True)
            os._exit(1)

    def _started(self) -> Worker:
        if self._worker is None:
            self._worker = Worker(*self._arguments)
        return self._worker


class Cluster:
    """The workers of one run.

    Args:
        run: URL of the folder of the run, which every machine can reach.
        backend: that the plan asks for.
        model: where the bundle is on every machine; None for where it was when the plan was made.
        threads: CPU threads of a worker, and cores that it gets.
        workers: how many; by default as many as there are GPUs, or groups of cores.
        say: called with messages for the user.

    Attributes:
        actors: Ray's handles of the workers that have not been given up.

    Raises:
        JobError: the cluster has too few cores for one worker.
    """

    def __init__(
        self,
        run: str,
        backend: str,
        model: Path | None,
        threads: int | None,
        workers: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        if gpus and (backend == "auto" or BACKENDS[backend].device == "cuda"):
            needs, count = {"num_gpus": 1, "num_cpus": threads or 1}, gpus
        else:
            cores = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
            threads = threads or min([_CORES, *cores])
            needs, count = {"num_cpus": threads}, sum(number // threads for number in cores)
        if not (workers or count):
            raise JobError(f"no machine of the cluster has {threads} cores; lower --threads")
        kind: Any = ray.remote(Actor)
        placed = kind.options(max_restarts=-1, **needs)
        self.actors = [placed.remote(run, model, threads) for _ in range(workers or count)]

    def start(self) -> str:
        """Wait until a worker has loaded its engine; says which one it is.

        Raises:
            Exception: what the last worker says, if none can start.
        """
        waiting = {actor.start.remote(): actor for actor in self.actors}
        while True:
            (ready, *_), _ = ray.wait(list(waiting))
            try:
                return f"{len(self.actors)} workers, {ray.get(ready)}"
            except (RayTaskError, ActorDiedError) as error:
                self._give_up(waiting.pop(ready), error)

    def work(self, shards: Sequence[int], stop: Event) -> Iterator[tuple[int, tuple[int, int]]]:
        """Have shards worked on; yields each with its numbers of pictures and of failures.

        Args:
            shards: their numbers.
            stop: ends the work once it is set.

        Raises:
            Exception: what the last worker says, if none can go on.
        """
        todo, idle = deque(shards), deque(self.actors)
        busy: dict[Any, tuple[Any, int]] = {}
        ended: set[Any] = set()
        while (todo or busy) and not stop.is_set():
            while todo and idle:
                actor, shard = idle.pop(), todo.popleft()
                busy[actor.work.remote(shard)] = actor, shard
            ready, _ = ray.wait(list(busy), timeout=_PATIENCE)
            for future in ready:
                actor, shard = busy.pop(future)
                try:
                    done = ray.get(future)
                except (RayTaskError, ActorDiedError) as error:
                    todo.appendleft(shard)
                    self._give_up(actor, error)
                except RayActorError:  # until Ray has started its process again
                    if actor not in ended:
                        self._say(f"a worker's process has ended in shard {shard}")
                    ended.add(actor)
                    todo.appendleft(shard)
                    idle.appendleft(actor)  # those that live go first
                    time.sleep(_PATIENCE)
                else:
                    ended.discard(actor)
                    idle.append(actor)
                    yield shard, done

    def _give_up(self, actor: Any, error: RayTaskError | ActorDiedError) -> None:
        """Go on without a worker that cannot work.

        Raises:
            Exception: it is the last one.
        """
        self.actors.remove(actor)
        cause = error.cause if isinstance(error, RayTaskError) else error
        if not self.actors:
            raise cause from None
        self._say(f"a worker is given up: {cause}")
        ray.kill(actor)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A connection to Ray, or a Ray of this machine's own.

    Args:
        address: of the cluster, "auto" for the one that this machine is part of, or `LOCAL`.

    Raises:
        JobError: there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"address": address}
    if address == LOCAL:
        options |= {"include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        reason = " ".join(str(error).split())
        raise JobError(f"cannot reach Ray at {address}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()
