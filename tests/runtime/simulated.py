"""A GPU and a TensorRT that are not there.

The GPU does its work at any time between its being queued and the moment when somebody waits for
it, in any order that streams and events allow. A missing wait so shows as a wrong result.
"""

import ctypes
import dataclasses
import random
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime

import lpnsr.kernels.cuda
from kernels import hosted
from lpnsr import kernels
from lpnsr.runtime.bundle import Bundle, sha256
from lpnsr.runtime.manifest import MANIFEST, Engine


class Gpu:
    """Stands in for `cuda.core.Device`; `seed` decides when and in which order work is done."""

    arch, name = "89", "Simulated GPU"

    def __init__(self, seed, memory=2**40):
        self.random, self.streams, self.memory = random.Random(seed), {}, memory
        self.held = 0

    def set_current(self):
        pass

    def create_stream(self):
        stream = Stream(self)
        self.streams[int(stream.handle)] = stream
        return stream

    def create_event(self):
        return Event(self)

    def allocate(self, size, *, stream):
        if size > self.memory:
            from cuda.core._utils.cuda_utils import CUDAError

            raise CUDAError("CUDA_ERROR_OUT_OF_MEMORY: the API call failed")
        return Buffer(size)

    def step(self):
        """Do one piece of work that may be done; False if there is none."""
        ready = [stream for stream in self.streams.values() if stream.is_ready()]
        if ready:
            self.random.choice(ready).work()
        return bool(ready)

    def idle(self):
        """Some work gets done while the host does something else."""
        while self.random.random() < 0.5 and self.step():
            pass

    def wait_until(self, is_done):
        while not is_done():
            assert self.step(), "this waits for ever"


class Stream:
    def __init__(self, gpu):
        self.gpu, self.queue, self.handle = gpu, [], id(self)
        self.capturing = None

    def put(self, operation):
        if self.capturing is not None:
            assert callable(operation)
            self.capturing.append(operation)
            return
        self.queue.append(operation)
        self.gpu.idle()

    def is_ready(self):
        first = self.queue[0] if self.queue else None
        return first is not None and (callable(first) or first[0].recorded >= first[1])

    def work(self):
        operation = self.queue.pop(0)
        if callable(operation):
            operation()

    def record(self, event):
        event.asked += 1
        number = event.asked
        self.put(lambda: setattr(event, "recorded", number))

    def wait(self, event):
        self.put((event, event.asked))

    def sync(self):
        self.gpu.wait_until(lambda: not self.queue)

    def create_graph_builder(self):
        return Builder(self)


class Event:
    def __init__(self, gpu):
        self.gpu, self.asked, self.recorded = gpu, 0, 0

    def sync(self):
        self.gpu.wait_until(lambda: self.recorded == self.asked)


class Buffer:
    def __init__(self, size):
        self.content, self.size = np.full(size, 0x7F, np.uint8), size
        self.handle = self.content.ctypes.data

    @classmethod
    def from_handle(cls, ptr, size, owner):
        part = cls(0)
        part.content, part.size, part.handle = at(ptr, (size,), np.uint8), size, ptr
        return part

    def copy_from(self, other, *, stream):
        assert self.content.size == other.content.size
        stream.put(lambda: np.copyto(self.content, other.content))


class PinnedMemory:
    """Stands in for `cuda.core.LegacyPinnedMemoryResource`."""

    def allocate(self, size):
        return Buffer(size)


class Builder:
    """Stands in for `cuda.core.graph.GraphBuilder`."""

    def __init__(self, stream):
        self.stream = stream

    def begin_building(self):
        assert not self.stream.queue
        self.stream.capturing = self.operations = []
        return self

    def end_building(self):
        self.stream.capturing = None
        return self

    def complete(self):
        return Graph(self.operations)


class Graph:
    replays = 0

    def __init__(self, operations):
        assert operations
        self.operations = operations

    def launch(self, stream):
        type(self).replays += 1
        for operation in self.operations:
            stream.put(operation)


class Kernel:
    """Stands in for `lpnsr.kernels.cuda.ResidualShift`: computes on the CPU."""

    def __init__(self, device):
        pass

    def launch(self, stream, step, dtype, shape, *, out, scaled=0, x=0, draw=0, origins=0, **terms):
        assert dtype == "float32"

        def work():
            tensors = {name: at(address, shape) for name, address in terms.items() if address}
            tensors["x"] = at(x, shape) if x else np.zeros(shape, np.float32)
            places = at(origins, (shape[0], 4), np.uint32) if origins else None
            results = kernels.residual_shift(step, **tensors, draw=draw, origins=places)
            for address, result in zip((out, scaled), results, strict=True):
                if address:
                    np.copyto(at(address, shape), result)

        stream.put(work)


def at(address, shape, dtype=np.float32):
    """What lies at an address."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_byte * size).from_address(address), dtype).reshape(shape)


class Context:
    """Stands in for `IExecutionContext`: computes with ONNX Runtime."""

    def __init__(self, engine):
        self._engine, self._addresses, self._memory = engine, {}, None

    def set_device_memory(self, memory, size):
        assert memory and size >= self._engine.device_memory_size_v2
        self._memory = memory

    def set_tensor_address(self, name, memory):
        assert name in self._engine.shapes
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        addresses = dict(self._addresses)
        assert self._memory and set(addresses) == set(self._engine.shapes)
        self._engine.gpu.streams[stream_handle].put(lambda: self._engine.compute(addresses))
        return True


class CudaEngine:
    """Stands in for `ICudaEngine`; its plan is an ONNX graph."""

    device_memory_size_v2 = 4096

    def __init__(self, trt, gpu, plan):
        self.trt, self.gpu, self.kept = trt, gpu, gpu.cache
        self.session = onnxruntime.InferenceSession(plan, providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self.session.get_outputs()]
        values = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.shapes = {value.name: value.shape for value in values}
        self.types = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        self.types = {value.name: self.types[value.type] for value in values}
        self.num_io_tensors = len(values)

    def get_tensor_name(self, index):
        return list(self.shapes)[index]

    def get_tensor_shape(self, name):
        return self.shapes[name]

    def get_tensor_dtype(self, name):
        return {np.float32: self.trt.float32, np.int64: self.trt.int64}[self.types[name]]

    def create_runtime_config(self):
        return Config(self)

    def create_execution_context(self, config):
        assert config.strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)

    def compute(self, addresses):
        arrays = {
            name: at(addresses[name], shape, self.types[name])
            for name, shape in self.shapes.items()
        }
        inputs = {name: arrays[name] for name in arrays if name not in self.outputs}
        results = self.session.run(self.outputs, inputs)
        for name, result in zip(self.outputs, results, strict=True):
            np.copyto(arrays[name], result)


class Config:
    """Stands in for `IRuntimeConfig` and `IRuntimeCache`."""

    def __init__(self, engine):
        self.engine = engine

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return self

    def set_runtime_cache(self, cache):
        return True

    def deserialize(self, blob):
        self.engine.kept.append(blob)
        return True

    def serialize(self):
        return b"compiled"


def tensorrt(trt, gpu):
    """A module like `tensorrt_rtx`, whose engines are ONNX graphs that ONNX Runtime computes."""
    gpu.cache = []

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def get_engine_validity(self, buffer):
            kinds = trt.EngineInvalidityDiagnostics
            if bytes(buffer) == b"no engine":
                return trt.EngineValidity.INVALID, int(kinds.OLD_CUDA_DRIVER)
            return trt.EngineValidity.VALID, 0

        def deserialize_cuda_engine(self, plan):
            try:
                return CudaEngine(trt, gpu, plan)
            except Exception as error:
                self.logger.log(trt.ILogger.ERROR, f"cannot deserialise: {error}")
                return None

    names = (
        "ILogger",
        "float32",
        "int64",
        "EngineValidity",
        "EngineInvalidityDiagnostics",
        "__version__",
    )
    names += ("ExecutionContextAllocationStrategy", "IRuntimeCache")
    return SimpleNamespace(Runtime=Runtime, **{name: getattr(trt, name) for name in names})


def install(monkeypatch, device, pictures):
    """Let `tensorrt_rtx` and the GPU be simulated ones; `pictures` is `picture.cu`, compiled."""
    import cuda.core
    import tensorrt_rtx

    def find(index=0):
        if index:
            raise lpnsr.kernels.cuda.KernelError(
                f"no NVIDIA GPU {index} can be used: none is there"
            )
        return device

    monkeypatch.setattr(lpnsr.kernels.cuda, "device", find)
    monkeypatch.setattr(lpnsr.kernels.cuda, "ResidualShift", Kernel)
    hosted.install(monkeypatch, pictures, lambda stream, work: stream.put(work))
    monkeypatch.setattr(cuda.core, "LegacyPinnedMemoryResource", PinnedMemory)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", tensorrt(tensorrt_rtx, device))


def with_engines(folder, builder_name, builder_version, **changes):
    """Adds "engines" that the simulated TensorRT runs: copies of the graphs."""
    opened = Bundle.open(folder)
    made = []
    for source in (source for graph in opened.manifest.graphs for source in graph.files):
        file = f"{source}.engine"
        (folder / file).write_bytes((folder / source).read_bytes())
        sources, digest = opened.sources(source), sha256(folder / file)
        made.append(
            Engine(file, digest, source, sources, builder_name, builder_version, ("sm_89",))
        )
    engines = tuple(dataclasses.replace(engine, **changes) for engine in made)
    manifest = dataclasses.replace(opened.manifest, engines=engines)
    (folder / MANIFEST).write_text(manifest.to_json())
    return folder
