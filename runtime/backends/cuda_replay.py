"""A computation on a GPU, captured once and replayed for each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.cuda_memory import DeviceMemory, pinned, view

if TYPE_CHECKING:
    from cuda.core import Device, Stream
    from cuda.core.graph import Graph

Enqueue = Callable[["Stream", Mapping[str, int]], None]
"""Queues the computation of a batch, given the device address of each of its tensors."""

_FLOAT = 4


class Replay:
    """The computation of one batch, at fixed addresses on the GPU.

    Args:
        device: the GPU, current in this thread.
        shapes: name -> shape of the float32 inputs, in the order of a batch, and finally of the
            output.
        enqueue: queues the computation.
        capture: whether to capture it in a CUDA graph, which avoids launching it kernel by kernel.

    Attributes:
        stream: where it is computed.
        addresses: name -> address of the tensor on the GPU.
    """

    def __init__(
        self,
        device: Device,
        shapes: Mapping[str, tuple[int, ...]],
        enqueue: Enqueue,
        capture: bool = True,
    ) -> None:
        self.stream, self._shapes, self._enqueue = device.create_stream(), shapes, enqueue
        self._memory = DeviceMemory(device, self.stream)
        sizes = {name: _FLOAT * math.prod(shape) for name, shape in shapes.items()}
        self._there = {name: self._memory.room(size) for name, size in sizes.items()}
        self._here = {name: pinned(size) for name, size in sizes.items()}
        self.addresses = {name: int(buffer.handle) for name, buffer in self._there.items()}
        self._graph: Graph | None = None
        if capture:
            self._upload([np.zeros(shape, np.float32) for shape in [*shapes.values()][:-1]])
            self._graph = self._captured()

    def _captured(self) -> Graph:
        # Whatever is loaded or chosen at the first run must not be captured.
        self.queue()
        self.stream.sync()
        builder = self.stream.create_graph_builder()
        builder.begin_building()
        try:
            self._enqueue(builder.stream, self.addresses)
        finally:
            builder.end_building()
        return builder.complete()

    def queue(self) -> None:
        """Queue the computation of the batch that is on the GPU."""
        if self._graph:
            self._graph.launch(self.stream)
        else:
            self._enqueue(self.stream, self.addresses)

    def run(self, *batch: np.ndarray) -> np.ndarray:
        """Compute a batch that is on the host.

        Args:
            batch: the float32 inputs.

        Returns:
            the float32 output.

        Raises:
            BackendError: a tensor has another shape.
        """
        self._upload(batch)
        self.queue()
        output = list(self._shapes)[-1]
        self._here[output].copy_from(self._there[output], stream=self.stream)
        self.stream.sync()
        return view(self._here[output], np.float32, self._shapes[output]).copy()

    def _upload(self, batch: Sequence[np.ndarray]) -> None:
        for (name, shape), array in zip([*self._shapes.items()][:-1], batch, strict=True):
            if array.shape != shape:
                raise BackendError(f"{name} has the shape {array.shape}, not {shape}")
            np.copyto(view(self._here[name], np.float32, shape), array)
            self._there[name].copy_from(self._here[name], stream=self.stream)
