"""Engines on the GPU, ready to be queued: one for a whole chain, or one for each of its stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpnsr.kernels import cuda
from lpnsr.kernels.recurrence import Step, drive
from lpnsr.runtime.backends.cuda_memory import DeviceMemory
from lpnsr.runtime.backends.engine_files import written
from lpnsr.runtime.bundle import latent_shape
from lpnsr.runtime.manifest import Graph, Manifest, StageGraph

if TYPE_CHECKING:
    from cuda.core import Buffer, Device, Stream

_ALIGNMENT = 256
"""What TensorRT asks of the address of a tensor."""


class LoadedEngine:
    """One engine on the GPU.

    TensorRT-RTX compiles its code for the GPU at hand when it is loaded and run, and the result is
    kept in a file. TensorRT has compiled it before and keeps nothing.

    Args:
        trt: TensorRT's or TensorRT-RTX's package.
        runtime: its runtime.
        log: what `lpnsr.runtime.backends.engine_files.create_log` returns.
        plan: the serialised engine.
        compiled: the file for what is compiled.

    Attributes:
        shapes: name -> shape of its inputs and outputs.
        types: name -> TensorRT's data type of them.
        scratch: bytes of device memory that it computes in.

    Raises:
        BackendError: it cannot be loaded.
        MemoryError: the GPU's memory does not suffice.
    """

    def __init__(self, trt: Any, runtime: Any, log: Any, plan: bytes, compiled: Path) -> None:
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise log.fail("the engine cannot be loaded")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self.shapes = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        self.types = {name: engine.get_tensor_dtype(name) for name in names}
        self.scratch = engine.device_memory_size_v2
        self._log, self._compiled, self._cache = log, compiled, None
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(trt, "IRuntimeCache"):
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            self._cache = config.create_runtime_cache()
            with suppress(OSError):
                self._cache.deserialize(compiled.read_bytes())  # refuses what does not fit
            config.set_runtime_cache(self._cache)
            self._context = engine.create_execution_context(config)
        else:
            self._context = engine.create_execution_context(strategy)
        if self._context is None:
            raise log.fail("the engine cannot be prepared")

    def use(self, scratch: Buffer) -> None:
        """Compute in this memory, which other engines may use before and after."""
        self._context.set_device_memory(int(scratch.handle), scratch.size)

    def enqueue(self, stream: Stream, addresses: Mapping[str, int]) -> None:
        """Queue the computation.

        Args:
            stream: where.
            addresses: tensor name -> device address.
        """
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(int(stream.handle)):
            raise self._log.fail("the engine cannot be run")

    def keep(self) -> None:
        """Write what was compiled to its file, if something can be written there."""
        if self._cache is None:
            return
        with suppress(OSError):  # costs the next start some seconds
            self._compiled.parent.mkdir(parents=True, exist_ok=True)
            with written(self._compiled) as partial:
                partial.write_bytes(self._cache.serialize())


class StagedChain:
    """The engines of a staged chain, with the fused kernel between them.

    What passes between them has one place on the GPU, which batches use one after the other.

    Args:
        device: the GPU.
        stream: on which its memory is allocated.
        parts: file of a stage's graph -> its engine.
        manifest: of the bundle.
        graph: the staged chain.
    """

    def __init__(
        self,
        device: Device,
        stream: Stream,
        parts: Mapping[str, LoadedEngine],
        manifest: Manifest,
        graph: Graph,
    ) -> None:
        self.kernel = cuda.ResidualShift(device)
        self.parts, self._stages, self._steps = parts, graph.stages, manifest.steps
        self.latent = latent_shape(manifest, graph)
        size = 4 * math.prod(self.latent)
        sizes = {"state": size, "scaled": size}
        for part in parts.values():
            sizes |= {name: 4 * math.prod(shape) for name, shape in part.shapes.items()}
        for name in ("step", manifest.inputs[0], manifest.output):
            sizes.pop(name, None)
        self._memory = DeviceMemory(device, stream)
        self.between = {name: int(self._memory.room(n).handle) for name, n in sizes.items()}
        self.numbers = int(self._memory.upload(_numbers(len(self._steps))).handle)
        self._memory.finish()
        self.noise = manifest.inputs[1]

    def enqueue(self, stream: Stream, addresses: Mapping[str, int]) -> None:
        """Queue the chain; `addresses` are those of the chain's own inputs and output."""
        drive(self._stages, self._steps, _Queue(self, stream, addresses))


class _Queue:
    """An executor of `drive` that queues on a stream, and whose values are addresses."""

    def __init__(self, chain: StagedChain, stream: Stream, addresses: Mapping[str, int]) -> None:
        self._chain, self._stream = chain, stream
        self._places = {**chain.between, **addresses}
        self._draws = itertools.count(self._places[chain.noise], 4 * math.prod(chain.latent))

    def call(self, stage: StageGraph, step: Step, number: int) -> None:
        self._places["step"] = self._chain.numbers + number * _ALIGNMENT
        names = (*stage.inputs, *stage.outputs)
        places = {name: self._places[name] for name in names}
        self._chain.parts[stage.file].enqueue(self._stream, places)

    def update(self, step: Step, state: str, terms: Sequence[str]) -> None:
        self._chain.kernel.launch(
            self._stream,
            step,
            "float32",
            self._chain.latent,
            x=self._places[state],
            **{name: self._places[name] for name in terms},
            eps=next(self._draws) if step.noise else 0,
            out=self._places["state"],
            scaled=self._places["scaled"],
        )


def _numbers(count: int) -> np.ndarray:
    """0, 1, ... as int64, at distances that TensorRT accepts."""
    table = np.zeros((count, _ALIGNMENT // 8), np.int64)
    table[:, 0] = range(count)
    return table
