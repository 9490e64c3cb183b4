"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from lpnsr.runtime.backends import staged
from lpnsr.runtime.backends.base import Backend, BackendError
from lpnsr.runtime.bundle import Bundle, BundleError, Graph, Stage, shapes

_SILENT = 4
"""Log severity "fatal": whatever goes wrong also arrives as an exception."""


class OnnxRuntime(Backend):
    """Runs a bundle's ONNX graphs, unrolled or staged; works on every machine.

    The engine widens fp16 to fp32 by itself; it does not compute in bf16.

    Args:
        threads: CPU threads per operation; by default one per physical core.
        precision: "fp32" or "auto", which is the same.

    Raises:
        BackendError: ONNX Runtime is not installed, or the precision is another.
    """

    _extra = "cpu"
    _has_bf16 = False

    def __init__(self, threads: int | None = None, precision: str = "auto") -> None:
        if precision not in ("auto", "fp32"):
            raise BackendError(
                f"ONNX Runtime does not compute in {precision}; "
                "use --backend openvino or --precision fp32"
            )
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
        self._threads = threads or 0
        self._sessions: dict[str, Any] = {}
        self._loaded: tuple[Bundle, Graph] | None = None

    def load(self, bundle: Bundle, graph: Graph) -> None:
        """Read the graph and prepare it for the CPU; see `Backend.load`."""
        if not self._has_bf16 and "bf16" in bundle.manifest.precision.values():
            raise BackendError(
                "ONNX Runtime does not compute in bf16 on the CPU; use --backend openvino, "
                "or export the bundle with --precision fp16 or fp32"
            )
        self._sessions = {}  # frees the previous graph's weights first
        options = self._engine.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.execution_mode = self._engine.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._engine.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _SILENT
        found = {}
        for name in graph.files:
            path = bundle.path / name
            try:
                session = self._sessions[name] = self._open(str(path), options)
            except self._errors as error:
                _raise_if_memory(error)
                raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
            tensors = (*session.get_inputs(), *session.get_outputs())
            found |= {tensor.name: tuple(tensor.shape) for tensor in tensors}
        expected = shapes(bundle.manifest, graph)
        between = {name for stage in graph.stages for name in (*stage.inputs, *stage.outputs)}
        if found.keys() != expected.keys() | between or not expected.items() <= found.items():
            raise BundleError(f"{path} has tensors {found}, its manifest {expected}; export again")
        self._loaded = bundle, graph

    def _open(self, path: str, options: Any) -> Any:
        return self._engine.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Backend.run`."""
        bundle, graph = self._loaded
        manifest = bundle.manifest
        try:
            if graph.stages:
                return staged.upscale(
                    graph.stages, manifest.steps, self._compute, lr, noise, self._threads
                )[manifest.output]
            values = dict(zip(manifest.inputs, (lr, noise), strict=True))
            return self._sessions[graph.file].run([manifest.output], values)[0]
        except self._errors as error:
            self._raise(error)

    def _compute(self, stage: Stage, inputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        values = dict(zip(stage.inputs, inputs, strict=True))
        return self._sessions[stage.file].run(stage.outputs, values)

    def _raise(self, error: Exception) -> NoReturn:
        _raise_if_memory(error)
        raise BackendError(f"ONNX Runtime fails: {error}") from error

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same: the CPU computes in the precision that the graph asks for."""
        return self.run(lr, noise)

    def describe(self) -> str:
        """Name, version and device."""
        return f"ONNX Runtime {self._engine.__version__} on the CPU in fp32"


def _raise_if_memory(error: Exception) -> None:
    """ONNX Runtime has no error type of its own for exhausted memory, only these words."""
    if re.search(r"bad.?alloc|failed to allocate|out of memory", str(error), re.IGNORECASE):
        raise MemoryError(f"ONNX Runtime: {error}") from error
