"""Batches of float32 on their way through a GPU: upload, computation and download at once."""

from __future__ import annotations

import ctypes
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.runtime.backends import BackendError

if TYPE_CHECKING:
    from cuda.core import Buffer, Device, Stream
    from cuda.core.graph import Graph

Shapes = Mapping[str, tuple[int, ...]]
Enqueue = Callable[["Stream", Mapping[str, int]], None]
"""Queues the computation of a batch, given the device address of each of its tensors."""

_SLOTS = 2
_FLOAT = 4


@contextmanager
def cuda_errors(what: str) -> Iterator[None]:
    """Turn errors of `cuda.core` into a `BackendError`, or a `MemoryError` where memory is out."""
    from cuda.core._utils.cuda_utils import CUDAError

    try:
        yield
    except CUDAError as error:
        reason = str(error).splitlines()[0]
        is_memory = re.search("OUT_OF_MEMORY|out of memory", str(error))
        raise (MemoryError if is_memory else BackendError)(f"{what}: {reason}") from error


class Slot:
    """The memory of one batch, here (pinned) and on the GPU, and how far it is."""

    def __init__(self, device: Device, stream: Stream, shapes: Shapes) -> None:
        from cuda.core import LegacyPinnedMemoryResource

        pinned = LegacyPinnedMemoryResource()
        sizes = {name: _FLOAT * math.prod(shape) for name, shape in shapes.items()}
        self.here = {name: pinned.allocate(size) for name, size in sizes.items()}
        self.there = {name: device.allocate(size, stream=stream) for name, size in sizes.items()}
        self.arrays = {
            name: view(self.here[name], np.float32, shape) for name, shape in shapes.items()
        }
        self.addresses = {name: int(buffer.handle) for name, buffer in self.there.items()}
        self.uploaded, self.computed, self.downloaded = (device.create_event() for _ in range(3))
        self.graph: Graph | None = None


class Lanes:
    """Streams for upload, computation and download, with two batches under way.

    The computation is captured in a CUDA graph for each of the two slots when the lanes are made,
    and replayed for each batch.

    Args:
        device: the GPU, current in this thread.
        inputs: name -> shape of the float32 tensors that go in, in the order of a batch.
        output: name -> shape of the one that comes out.
        enqueue: queues the computation.
        capture: whether to capture it.

    Attributes:
        compute: the stream for computation.
        slots: the memory of the batches that are under way.
    """

    def __init__(
        self, device: Device, inputs: Shapes, output: Shapes, enqueue: Enqueue, capture: bool = True
    ) -> None:
        self._upload, self.compute, self._download = (device.create_stream() for _ in range(3))
        self._inputs, (self._output,) = list(inputs), output
        self._enqueue = enqueue
        self.slots = [Slot(device, self.compute, {**inputs, **output}) for _ in range(_SLOTS)]
        self.compute.sync()  # the memory is there for the other streams too
        if capture:
            for slot in self.slots:
                slot.graph = self._captured(slot)

    def _captured(self, slot: Slot) -> Graph:
        for array in slot.arrays.values():
            array.fill(0)
        for name in self._inputs:
            slot.there[name].copy_from(slot.here[name], stream=self.compute)
        # What is loaded or chosen at the first run must not be under capture.
        self._enqueue(self.compute, slot.addresses)
        self.compute.sync()
        builder = self.compute.create_graph_builder()
        builder.begin_building()
        try:
            self._enqueue(builder.stream, slot.addresses)
        finally:
            builder.end_building()
        return builder.complete()

    def run(self, batches: Iterable[Sequence[np.ndarray]]) -> Iterator[np.ndarray]:
        """Compute one batch after the other; one such run at a time.

        While a batch is computed, the next is taken from `batches` and uploaded.

        Args:
            batches: of each, the float32 tensors that go in.

        Yields:
            float32, what comes out for each.
        """
        free, busy = deque(self.slots), deque()
        try:
            for batch in batches:
                result = None
                if not free:
                    free.append(busy.popleft())
                    result = self._result(free[0])
                slot = free.popleft()
                self._submit(slot, batch)
                busy.append(slot)
                if result is not None:
                    yield result
            while busy:
                yield self._result(busy.popleft())
        finally:  # no batch that nobody waits for may write into memory that is used again
            for stream in (self._upload, self.compute, self._download):
                stream.sync()

    def _submit(self, slot: Slot, batch: Sequence[np.ndarray]) -> None:
        for name, array in zip(self._inputs, batch, strict=True):
            if array.shape != slot.arrays[name].shape:
                expected = slot.arrays[name].shape
                raise BackendError(f"{name} has the shape {array.shape}, not {expected}")
            np.copyto(slot.arrays[name], array)
            slot.there[name].copy_from(slot.here[name], stream=self._upload)
        self._upload.record(slot.uploaded)
        self.compute.wait(slot.uploaded)
        self.queue(slot)
        self.compute.record(slot.computed)
        self._download.wait(slot.computed)
        slot.here[self._output].copy_from(slot.there[self._output], stream=self._download)
        self._download.record(slot.downloaded)

    def queue(self, slot: Slot) -> None:
        """Queue the computation of what lies in a slot's memory on the GPU."""
        if slot.graph:
            slot.graph.launch(self.compute)
        else:
            self._enqueue(self.compute, slot.addresses)

    def _result(self, slot: Slot) -> np.ndarray:
        slot.downloaded.sync()
        return slot.arrays[self._output].copy()


def view(buffer: Buffer, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """Pinned memory as an array, which does not keep it alive."""
    content = (ctypes.c_byte * buffer.size).from_address(int(buffer.handle))
    return np.frombuffer(content, dtype).reshape(shape)
