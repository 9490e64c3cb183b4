"""TensorRT and TensorRT-RTX: engines of a bundle on an NVIDIA GPU."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpnsr.kernels import cuda
from lpnsr.runtime import engines
from lpnsr.runtime.backends import Backend, BackendError, Batches, PrecisionError, cache_folder
from lpnsr.runtime.backends.lanes import Lanes, cuda_errors
from lpnsr.runtime.bundle import Bundle, BundleError, Engine, Graph, shapes

if TYPE_CHECKING:
    from cuda.core import Stream


class TensorRt(Backend):
    """Runs engines that `lpnsr-export --engine` has built for this GPU.

    Args:
        builder: one of `lpnsr.runtime.engines.BUILDERS`.
        cuda_graph: capture an engine's work once and replay it, which spares launching it kernel by
            kernel.

    Raises:
        BackendError: the builder's package is not installed, or there is no GPU.
    """

    def __init__(self, builder: str, cuda_graph: bool = True) -> None:
        self._trt = engines.import_builder(builder)
        try:
            self._device = cuda.device()
        except cuda.KernelError as error:
            raise BackendError(str(error)) from error
        self._builder, self._cuda_graph = builder, cuda_graph
        self._log = engines.create_log(self._trt)
        self._runtime = self._trt.Runtime(self._log)
        if self._runtime is None:
            raise self._log.fail(f"{builder} cannot start")
        self._bundle: Bundle | None = None
        self._lanes: Lanes | None = None
        self._held: list[Any] = []

    def check(self, bundle: Bundle, graphs: Sequence[Graph]) -> None:
        """See that there are engines of all these graphs for this GPU.

        Raises:
            EngineError: one is missing, stale or foreign; says which command builds it.
        """
        for graph in graphs:
            self._find(bundle, graph)

    def load(self, bundle: Bundle, graph: Graph) -> None:
        """Bring the graph's engine to the GPU; see `Backend.load`."""
        self._device.set_current()
        self._lanes, self._held = None, []  # frees the previous engine's memory first
        engine = self._find(bundle, graph)
        plan = engines.read(bundle, engine)
        self._accept(bundle, engine, plan)
        with cuda_errors(f"cannot load {engine.file}"):
            self._start(engine, plan, bundle, graph)
        self._bundle = bundle

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Backend.run`."""
        (sr,) = self.stream([(lr, noise)])
        return sr

    def stream(self, batches: Batches) -> Generator[np.ndarray, None, None]:
        """Upscale many, two of them on their way at any time; see `Backend.stream`."""
        self._device.set_current()
        with cuda_errors(f"{self._builder} fails"):
            yield from self._lanes.run(batches)

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same; an engine computes in the precision that it was built for.

        Raises:
            PrecisionError: there is a higher one.
        """
        if set(self._bundle.manifest.precision.values()) <= {"float32"}:
            return self.run(lr, noise)
        raise PrecisionError(
            "in float16 or bfloat16 numbers went out of range; make a bundle with: "
            f"lpnsr-export --precision fp32 --engine {self._builder}"
        )

    def describe(self) -> str:
        """Name, version, device and whether there is a CUDA graph."""
        name = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[self._builder]
        graph = "" if self._cuda_graph else " without CUDA graph"
        return f"{name} {self._trt.__version__} on {self._device.name}{graph}"

    def _find(self, bundle: Bundle, graph: Graph) -> Engine:
        version, gpu = self._trt.__version__, f"sm_{self._device.arch}"
        return engines.find(bundle, graph.file, self._builder, version, gpu)

    def _accept(self, bundle: Bundle, engine: Engine, plan: bytes) -> None:
        """Let the runtime look at an engine's head, where it says for what it was built."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return  # TensorRT says so when it loads
        validity, diagnostics = self._runtime.get_engine_validity(plan[:64])
        if validity == self._trt.EngineValidity.INVALID:
            kinds = self._trt.EngineInvalidityDiagnostics.__members__.items()
            reasons = [name for name, kind in kinds if diagnostics & int(kind)]
            why = ", ".join(reasons).lower().replace("_", " ") or "no reason is given"
            raise engines.EngineError(
                f"{engine.file} cannot be used here ({why}); update the driver or run: "
                + engines.command(bundle, self._builder, f"sm_{self._device.arch}")
            )

    def _start(self, engine: Engine, plan: bytes, bundle: Bundle, graph: Graph) -> None:
        loaded = self._runtime.deserialize_cuda_engine(plan)
        if loaded is None:
            raise self._log.fail(f"{self._builder} cannot load {engine.file}")
        expected = shapes(bundle.manifest, graph)
        self._check_tensors(loaded, engine.file, expected)
        gpu = re.sub(r"\W+", "-", self._device.name).lower()
        jit = Jit(self._trt, loaded, cache_folder() / f"{engine.sha256[:16]}.{gpu}.jit")
        context = jit.context()
        if context is None:
            raise self._log.fail(f"{self._builder} cannot prepare {engine.file}")
        stream = self._device.create_stream()
        scratch = self._device.allocate(max(loaded.device_memory_size_v2, 1), stream=stream)
        stream.sync()
        context.set_device_memory(int(scratch.handle), loaded.device_memory_size_v2)
        self._held = [jit, scratch]

        def enqueue(stream: Stream, addresses: Mapping[str, int]) -> None:
            for name, address in addresses.items():
                context.set_tensor_address(name, address)
            if not context.execute_async_v3(int(stream.handle)):
                raise self._log.fail(f"{self._builder} cannot run {engine.file}")

        *inputs, output = expected.items()
        self._lanes = Lanes(self._device, dict(inputs), dict([output]), enqueue, self._cuda_graph)
        jit.keep()

    def _check_tensors(
        self, loaded: Any, file: str, expected: Mapping[str, tuple[int, ...]]
    ) -> None:
        names = [loaded.get_tensor_name(index) for index in range(loaded.num_io_tensors)]
        found = {name: tuple(loaded.get_tensor_shape(name)) for name in names}
        types = {loaded.get_tensor_dtype(name) for name in names}
        if found != dict(expected) or types != {self._trt.float32}:
            raise BundleError(f"{file} has tensors {found}, its manifest {expected}; export again")


class Jit:
    """TensorRT-RTX compiles an engine's code for the GPU at hand when it is loaded, and keeps it.

    TensorRT has compiled it before and keeps nothing.
    """

    def __init__(self, trt: Any, engine: Any, file: Path) -> None:
        self._strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._engine, self._file = engine, file
        self._config = self._cache = None
        if hasattr(trt, "IRuntimeCache"):
            self._config = engine.create_runtime_config()
            self._config.set_execution_context_allocation_strategy(self._strategy)
            self._cache = self._config.create_runtime_cache()
            with suppress(OSError):
                self._cache.deserialize(file.read_bytes())  # refuses what does not fit
            self._config.set_runtime_cache(self._cache)

    def context(self) -> Any:
        """What runs the engine, in device memory that is given to it; None if that fails."""
        return self._engine.create_execution_context(self._config or self._strategy)

    def keep(self) -> None:
        """Write what was compiled to the cache folder, if there is one."""
        if self._cache is None:
            return
        partial = self._file.with_name(f".{self._file.name}.lpnsr-partial")
        with suppress(OSError):  # nowhere to write costs the next start some seconds
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(self._cache.serialize())
            partial.replace(self._file)
