"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NoReturn

import numpy as np
import psutil

from lpnsr.runtime.backends import staged
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.host_pictures import HostSession
from lpnsr.runtime.backends.registry import EngineOptions
from lpnsr.runtime.backends.session import Backend, Session
from lpnsr.runtime.bundle import Bundle, inputs, shapes
from lpnsr.runtime.manifest import BundleError, Graph, StageGraph

_SILENT = 4
"""Log severity "fatal": whatever goes wrong also arrives as an exception."""


def create(name: str, options: EngineOptions) -> OnnxRuntime:
    """See `lpnsr.runtime.backends.registry`."""
    return OnnxRuntime(options.threads)


def is_installed() -> bool:
    """Whether there is an ONNX Runtime, of whichever kind."""
    return find_spec("onnxruntime") is not None


class OnnxRuntime(Backend):
    """Runs a bundle's ONNX graphs, unrolled or staged; works on every machine.

    The engine widens fp16 to fp32 by itself; it does not compute in bf16.

    Args:
        threads: CPU threads per operation; by default one per physical core.
        lanes: batches of a picture that are computed at the same time.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """

    _extra = "cpu"

    def __init__(self, threads: int | None = None, lanes: int = 1) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as native
        except ImportError as error:
            raise BackendError(
                f"no inference engine ({error}); "
                f'install one with: pip install "lpnsr[{self._extra}]"'
            ) from error
        self._engine = onnxruntime
        self._errors = tuple(
            kind
            for kind in vars(native).values()
            if isinstance(kind, type) and issubclass(kind, Exception)
        )
        self._threads, self._lanes = threads or 0, lanes

    @property
    def threads(self) -> int:
        """See `Backend.threads`."""
        return self._threads or _cores()

    def divided(self, count: int) -> Backend:
        """See `Backend.divided`."""
        return type(self)(self.threads // count, count)

    def load(self, bundle: Bundle, graph: Graph) -> Session:
        """Read the graph and prepare it for the CPU; see `Backend.load`."""
        parts = self._load_parts(bundle, graph)
        return OnnxRuntimeSession(bundle, graph, parts, self._threads, self._errors, self._lanes)

    def _load_parts(self, bundle: Bundle, graph: Graph) -> dict[str, Any]:
        """File name -> ONNX Runtime's session of it."""
        found: dict[str, tuple[int, ...]] = {}
        parts: dict[str, Any] = {}
        for name in graph.files:
            path = bundle.path / name
            try:
                part = parts[name] = self._open(str(path), self._options())
            except self._errors as error:
                _raise_if_memory(error)
                raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
            tensors = (*part.get_inputs(), *part.get_outputs())
            found |= {tensor.name: tuple(tensor.shape) for tensor in tensors}
        expected = shapes(bundle.manifest, graph)
        between = {name for stage in graph.stages for name in (*stage.inputs, *stage.outputs)}
        if found.keys() != expected.keys() | between or not expected.items() <= found.items():
            raise BundleError(f"{path} has tensors {found}, its manifest {expected}; export again")
        return parts

    def _options(self) -> Any:
        options = self._engine.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.execution_mode = self._engine.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._engine.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _SILENT
        return options

    def _open(self, path: str, options: Any) -> Any:
        return self._engine.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def describe(self) -> str:
        """Name, version and device."""
        return f"ONNX Runtime {self._engine.__version__} on the CPU in fp32"


class OnnxRuntimeSession(HostSession):
    """A graph on the CPU; ONNX Runtime's own sessions are thread-safe."""

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        parts: Mapping[str, Any],
        threads: int,
        errors: tuple[type[Exception], ...],
        lanes: int = 1,
    ) -> None:
        super().__init__(bundle, graph, lanes)
        self._parts, self._threads, self._errors = parts, threads, errors

    def estimate(self, lr: np.ndarray) -> dict[str, np.ndarray]:
        """What is made for a whole picture; see `Session.estimate`."""
        found: dict[str, np.ndarray] = {}
        try:
            for stage in self.graph.picture:
                found |= zip(stage.outputs, self._compute(stage, [lr]), strict=True)
        except self._errors as error:
            raise_failure(error)
        return found

    def run(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Session.run`."""
        graph, manifest = self.graph, self.manifest
        values = inputs(manifest, lr, noise, given)
        try:
            if graph.stages:
                return staged.upscale(
                    graph.stages, manifest.steps, self._compute, values, noise, self._threads
                )[manifest.output]
            return self._parts[graph.file].run([manifest.output], values)[0]
        except self._errors as error:
            raise_failure(error)

    def _compute(self, stage: StageGraph, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        values = dict(zip(stage.inputs, inputs, strict=True))
        return self._parts[stage.file].run(stage.outputs, values)

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """The same as `run`: the CPU computes in the precision that the graph asks for."""
        return self.run(lr, noise, **given)


def _cores() -> int:
    """Physical cores that this process may use."""
    physical = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        return min(physical, len(os.sched_getaffinity(0)))
    return physical


def raise_failure(error: Exception) -> NoReturn:
    """Turn ONNX Runtime's error into a `BackendError` or a `MemoryError`."""
    _raise_if_memory(error)
    raise BackendError(f"ONNX Runtime fails: {error}") from error


def _raise_if_memory(error: Exception) -> None:
    """Detect exhausted memory: ONNX Runtime has no error type for it, only these words."""
    if re.search(r"bad.?alloc|failed to allocate|out of memory", str(error), re.IGNORECASE):
        raise MemoryError(f"ONNX Runtime: {error}") from error
