"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import numpy as np

from lpnsr.runtime.backends import Backend, BackendError
from lpnsr.runtime.bundle import Bundle, BundleError, Graph, shapes

_SILENT = 4
"""Log severity "fatal": whatever goes wrong also arrives as an exception."""


class OnnxRuntime(Backend):
    """Runs a bundle's ONNX graph as it is; works on every machine.

    Args:
        threads: CPU threads per operation; by default one per physical core.
        precision: "f32" or "auto", which is the same.

    Raises:
        BackendError: ONNX Runtime is not installed, or the precision is another.
    """

    _extra = "cpu"

    def __init__(self, threads: int | None = None, precision: str = "auto") -> None:
        if precision not in ("auto", "f32"):
            raise BackendError(
                f"ONNX Runtime does not compute in {precision}; "
                "use --backend openvino or --precision f32"
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
        self._session = None
        self._names: tuple[str, str, str] | None = None

    def load(self, bundle: Bundle, graph: Graph) -> None:
        """Read the graph and prepare it for the CPU; see `Backend.load`."""
        self._session = None  # frees the previous graph's weights first
        options = self._engine.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.execution_mode = self._engine.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = self._engine.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = _SILENT
        path = bundle.graph_path(graph)
        try:
            session = self._open(str(path), options)
        except self._errors as error:
            _raise_if_memory(error)
            raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
        found = {value.name: tuple(value.shape) for value in session.get_inputs()}
        found |= {value.name: tuple(value.shape) for value in session.get_outputs()}
        expected = shapes(bundle.manifest, graph)
        if found != expected:
            raise BundleError(f"{path} has tensors {found}, its manifest {expected}; export again")
        self._session = session
        self._names = (*bundle.manifest.inputs, bundle.manifest.output)

    def _open(self, path: str, options: Any) -> Any:
        return self._engine.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Backend.run`."""
        lr_name, noise_name, sr_name = self._names
        try:
            return self._session.run([sr_name], {lr_name: lr, noise_name: noise})[0]
        except self._errors as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        _raise_if_memory(error)
        raise BackendError(f"ONNX Runtime fails: {error}") from error

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same: the CPU computes in the precision that the graph asks for."""
        return self.run(lr, noise)

    def describe(self) -> str:
        """Name, version and device."""
        return f"ONNX Runtime {self._engine.__version__} on the CPU in f32"


def _raise_if_memory(error: Exception) -> None:
    """ONNX Runtime has no error type of its own for exhausted memory, only these words."""
    if re.search(r"bad.?alloc|failed to allocate|out of memory", str(error), re.IGNORECASE):
        raise MemoryError(f"ONNX Runtime: {error}") from error
