"""TensorRT and TensorRT-RTX: engines of a bundle on an NVIDIA GPU."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Any

import numpy as np

from lpnsr.kernels import cuda
from lpnsr.runtime.backends import engine_files
from lpnsr.runtime.backends.base import (
    ADVICE,
    BackendError,
    NotFiniteError,
    PrecisionError,
    Task,
)
from lpnsr.runtime.backends.cuda_memory import cuda_errors
from lpnsr.runtime.backends.cuda_replay import Replay
from lpnsr.runtime.backends.gpu_engines import LoadedEngine, StagedChain
from lpnsr.runtime.backends.gpu_pictures import Pictures
from lpnsr.runtime.backends.host_pictures import HostSession
from lpnsr.runtime.backends.registry import BACKENDS, EngineOptions
from lpnsr.runtime.backends.session import Backend
from lpnsr.runtime.bundle import Bundle, shapes
from lpnsr.runtime.home import compiled_folder
from lpnsr.runtime.manifest import BundleError, Engine, Graph, Manifest

if TYPE_CHECKING:
    from cuda.core import Device


def create(name: str, options: EngineOptions) -> TensorRt:
    """See `lpnsr.runtime.backends.registry`."""
    return TensorRt(name, device=options.device)


def is_installed() -> bool:
    """Whether one of the builders' packages is installed."""
    return any(find_spec(name.replace("-", "_")) for name in engine_files.BUILDERS)


class TensorRt(Backend):
    """Runs engines that `lpnsr-export --engine` has built for this GPU.

    Args:
        builder: one of `lpnsr.runtime.backends.engine_files.BUILDERS`.
        cuda_graph: capture an engine's work once and replay it, which spares launching it kernel by
            kernel.
        device: number of the GPU.

    Raises:
        BackendError: the builder's package is not installed, or there is no such GPU.
    """

    def __init__(self, builder: str, cuda_graph: bool = True, device: int = 0) -> None:
        self._trt = engine_files.import_builder(builder)
        try:
            self._device = cuda.device(device)
        except cuda.KernelError as error:
            raise BackendError(str(error)) from error
        self._builder, self._cuda_graph = builder, cuda_graph
        self._log = engine_files.create_log(self._trt)
        try:
            self._runtime = self._trt.Runtime(self._log)
        except (RuntimeError, TypeError) as error:  # what a constructor that fails raises
            raise self._log.fail(f"{builder} cannot start") from error

    def check(self, bundle: Bundle, graphs: Sequence[Graph]) -> None:
        """Check that there are engines of all these graphs for this GPU.

        Raises:
            EngineError: one is missing, stale or foreign; the message says how to build it.
        """
        for file in (file for graph in graphs for file in graph.files):
            self._find(bundle, file)

    def load(self, bundle: Bundle, graph: Graph) -> TensorRtSession:
        """Bring the graph's engines to the GPU; see `Backend.load`."""
        self._device.set_current()
        with cuda_errors(f"{self._builder} cannot start"):
            parts = {file: self._load(bundle, file) for file in graph.files}
            self._check_tensors(bundle.manifest, graph, parts)
            session = TensorRtSession(
                bundle, graph, parts, self._device, self._builder, self._cuda_graph
            )
        for part in parts.values():
            part.keep()
        return session

    def describe(self) -> str:
        """Name, version, device and whether there is a CUDA graph."""
        label = BACKENDS[self._builder].label
        graph = "" if self._cuda_graph else " without CUDA graph"
        return f"{label} {self._trt.__version__} on {self._device.name}{graph}"

    def _find(self, bundle: Bundle, file: str) -> Engine:
        version, gpu = self._trt.__version__, f"sm_{self._device.arch}"
        return engine_files.find(bundle, file, self._builder, version, gpu)

    def _load(self, bundle: Bundle, file: str) -> LoadedEngine:
        engine = self._find(bundle, file)
        plan = engine_files.read(bundle, engine)
        self._accept(bundle, engine, plan)
        gpu = re.sub(r"\W+", "-", self._device.name).lower()
        compiled = compiled_folder() / f"{engine.sha256[:16]}.{gpu}.jit"
        return LoadedEngine(self._trt, self._runtime, self._log, plan, compiled)

    def _accept(self, bundle: Bundle, engine: Engine, plan: bytes) -> None:
        """Let the runtime check the engine's header, which says what it was built for."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return  # TensorRT says so when it loads
        validity, diagnostics = self._runtime.get_engine_validity(plan[:64])
        if validity == self._trt.EngineValidity.INVALID:
            kinds = self._trt.EngineInvalidityDiagnostics.__members__.items()
            reasons = [name for name, kind in kinds if diagnostics & int(kind)]
            why = ", ".join(reasons).lower().replace("_", " ") or "no reason is given"
            raise engine_files.EngineError(
                f"{engine.file} cannot be used here ({why}); update the driver or run: "
                + engine_files.command(bundle, self._builder, f"sm_{self._device.arch}")
            )

    def _check_tensors(
        self, manifest: Manifest, graph: Graph, parts: Mapping[str, LoadedEngine]
    ) -> None:
        """Check that the engines have the tensors that the manifest promises.

        Raises:
            BundleError: they have others.
        """
        expected = shapes(manifest, graph)
        found: dict[str, tuple[int, ...]] = {}
        types: dict[str, Any] = {}
        for part in parts.values():
            found |= part.shapes
            types |= part.types
        between = {name for stage in graph.stages for name in (*stage.inputs, *stage.outputs)}
        narrow = set(types.values()) - {self._trt.float32, self._trt.int64}
        if (
            found.keys() != expected.keys() | between
            or not expected.items() <= found.items()
            or narrow
        ):
            raise BundleError(
                f"the engines of {graph.files[0]} have tensors {found}, the manifest {expected}; "
                "export again"
            )


class TensorRtSession(HostSession):
    """A graph's engines on the GPU.

    Batches and pictures of several threads take turns: work is queued under a lock, and the stream
    runs it in that order.

    Args:
        bundle: of the graph.
        graph: what is loaded.
        parts: file of a graph -> its engine.
        device: the GPU, current in this thread.
        builder: of the engines.
        cuda_graph: whether to capture their work in a CUDA graph.

    Attributes:
        replay: the computation of one batch.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        parts: Mapping[str, LoadedEngine],
        device: Device,
        builder: str,
        cuda_graph: bool,
    ) -> None:
        super().__init__(bundle, graph)
        self._parts, self._device, self._builder = parts, device, builder
        # Reentrant, because a progress callback may upscale, too.
        self._lock = RLock()
        stream = device.create_stream()
        size = max(1, *(part.scratch for part in parts.values()))
        self._scratch = device.allocate(size, stream=stream)
        for part in parts.values():
            part.use(self._scratch)
        chain: StagedChain | LoadedEngine
        if graph.stages:
            chain = StagedChain(device, stream, parts, bundle.manifest, graph)
        else:
            chain = parts[graph.file]
        stream.sync()
        tensors = shapes(bundle.manifest, replace(graph, stages=()))
        self.replay = Replay(device, tensors, chain.enqueue, cuda_graph)
        self._pictures = Pictures(device, self.replay, list(tensors.values()))

    def run(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Session.run`."""
        with self._turn():
            return self.replay.run(lr, noise)

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """Engines have no higher precision than theirs.

        Raises:
            PrecisionError: says what may help.
        """
        raise PrecisionError(self._advice())

    def bands(self, task: Task) -> Generator[np.ndarray, None, None]:
        """Upscale a picture; see `Session.bands`.

        It does not leave the GPU in between, unless it has fewer tiles than a batch: those the host
        cuts and blends, so that other pictures' tiles share the batch.
        """
        is_small = len(task.tiles) < self.graph.batch
        return super().bands(task) if is_small else self._on_the_gpu(task)

    def _on_the_gpu(self, task: Task) -> Generator[np.ndarray, None, None]:
        bands = self._pictures.bands(task)
        try:
            while True:
                with self._turn():
                    band = next(bands, None)
                if band is None:
                    return
                yield band
        except NotFiniteError as error:
            raise NotFiniteError(error.number, self._advice()) from None
        finally:
            with self._turn():
                bands.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Be the only thread that queues work, with the GPU as its current device."""
        with self._lock, cuda_errors(f"{self._builder} fails"):
            self._device.set_current()
            yield

    def _advice(self) -> str:
        """What may help if numbers are out of range."""
        if set(self.manifest.precision.values()) <= {"fp32"}:
            return ADVICE
        return (
            "in fp16 or bf16 numbers went out of range; make a bundle with: "
            f"lpnsr-export --precision fp32 --engine {self._builder}"
        )
