"""TensorRT and TensorRT-RTX: engines of a bundle on an NVIDIA GPU."""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.kernels import cuda
from lpnsr.runtime.backends import engine_files
from lpnsr.runtime.backends.base import (
    ADVICE,
    Backend,
    BackendError,
    NotFiniteError,
    Task,
)
from lpnsr.runtime.backends.cuda_memory import cuda_errors
from lpnsr.runtime.backends.cuda_replay import Replay
from lpnsr.runtime.backends.gpu_engines import LoadedEngine, StagedChain
from lpnsr.runtime.backends.gpu_pictures import Pictures
from lpnsr.runtime.bundle import Bundle, BundleError, Engine, Graph, Manifest, shapes
from lpnsr.runtime.home import compiled_folder

if TYPE_CHECKING:
    from cuda.core import Buffer


class TensorRt(Backend):
    """Runs engines that `lpnsr-export --engine` has built for this GPU.

    Args:
        builder: one of `lpnsr.runtime.backends.engine_files.BUILDERS`.
        cuda_graph: capture an engine's work once and replay it, which spares launching it kernel by
            kernel.

    Raises:
        BackendError: the builder's package is not installed, or there is no GPU.
    """

    def __init__(self, builder: str, cuda_graph: bool = True) -> None:
        self._trt = engine_files.import_builder(builder)
        try:
            self._device = cuda.device()
        except cuda.KernelError as error:
            raise BackendError(str(error)) from error
        self._builder, self._cuda_graph = builder, cuda_graph
        self._log = engine_files.create_log(self._trt)
        try:
            self._runtime = self._trt.Runtime(self._log)
        except (RuntimeError, TypeError) as error:  # what a constructor that fails raises
            raise self._log.fail(f"{builder} cannot start") from error
        self._replay: Replay | None = None
        self._pictures: Pictures | None = None
        self._parts: dict[str, LoadedEngine] = {}
        self._scratch: Buffer | None = None

    def check(self, bundle: Bundle, graphs: Sequence[Graph]) -> None:
        """See that there are engines of all these graphs for this GPU.

        Raises:
            EngineError: one is missing, stale or foreign; says which command builds it.
        """
        for file in (file for graph in graphs for file in graph.files):
            self._find(bundle, file)

    def load(self, bundle: Bundle, graph: Graph) -> None:
        """Bring the graph's engines to the GPU; see `Backend.load`."""
        self._device.set_current()
        # Frees the previous ones first.
        self._replay, self._pictures, self._parts, self._scratch = None, None, {}, None
        with cuda_errors(f"{self._builder} cannot start"):
            self._parts = {file: self._load(bundle, file) for file in graph.files}
            self._check_tensors(bundle.manifest, graph)
            self._start(bundle.manifest, graph)
        for part in self._parts.values():
            part.keep()
        self._manifest = bundle.manifest

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Backend.run`."""
        self._device.set_current()
        with cuda_errors(f"{self._builder} fails"):
            return self._replay.run(lr, noise)

    def bands(self, task: Task) -> Generator[np.ndarray, None, None]:
        """Upscale a picture without leaving the GPU in between; see `Backend.bands`."""
        self._device.set_current()
        with cuda_errors(f"{self._builder} fails"):
            try:
                yield from self._pictures.bands(task)
            except NotFiniteError as error:
                raise NotFiniteError(error.number, self._advice()) from None

    def describe(self) -> str:
        """Name, version, device and whether there is a CUDA graph."""
        name = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}[self._builder]
        graph = "" if self._cuda_graph else " without CUDA graph"
        return f"{name} {self._trt.__version__} on {self._device.name}{graph}"

    def _advice(self) -> str:
        """What may help where numbers went out of range."""
        if set(self._manifest.precision.values()) <= {"float32"}:
            return ADVICE
        return (
            "in float16 or bfloat16 numbers went out of range; make a bundle with: "
            f"lpnsr-export --precision fp32 --engine {self._builder}"
        )

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
        """Let the runtime look at an engine's head, where it says for what it was built."""
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

    def _check_tensors(self, manifest: Manifest, graph: Graph) -> None:
        """See that the engines have the tensors that the manifest promises.

        Raises:
            BundleError: they have others.
        """
        expected = shapes(manifest, graph)
        found, types = {}, {}
        for part in self._parts.values():
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

    def _start(self, manifest: Manifest, graph: Graph) -> None:
        stream = self._device.create_stream()
        size = max(1, *(part.scratch for part in self._parts.values()))
        self._scratch = self._device.allocate(size, stream=stream)
        for part in self._parts.values():
            part.use(self._scratch)
        if graph.stages:
            chain = StagedChain(self._device, stream, self._parts, manifest, graph)
        else:
            chain = self._parts[graph.file]
        stream.sync()
        tensors = shapes(manifest, replace(graph, stages=()))
        self._replay = Replay(self._device, tensors, chain.enqueue, self._cuda_graph)
        self._pictures = Pictures(self._device, self._replay, list(tensors.values()))
