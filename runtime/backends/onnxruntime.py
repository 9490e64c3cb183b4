"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re

import numpy as np

from lpnsr.runtime.backends import BackendError
from lpnsr.runtime.bundle import Bundle, BundleError, Graph, Manifest

_SILENT = 4
"""Log severity "fatal": whatever goes wrong also arrives as an exception."""


class OnnxRuntime:
    """Runs a bundle's ONNX graph as it is; works on every machine.

    Args:
        threads: CPU threads per operation; by default one per physical core.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """

    def __init__(self, threads: int | None = None) -> None:
        try:
            import onnxruntime
            from onnxruntime.capi import onnxruntime_pybind11_state as native
        except ImportError as error:
            raise BackendError(
                f'no inference engine ({error}); install one with: pip install "lpnsr[cpu]"'
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
            session = self._engine.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except self._errors as error:
            _raise_if_memory(error)
            raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
        found = {value.name: tuple(value.shape) for value in session.get_inputs()}
        found |= {value.name: tuple(value.shape) for value in session.get_outputs()}
        expected = _shapes(bundle.manifest, graph)
        if found != expected:
            raise BundleError(f"{path} has tensors {found}, its manifest {expected}; export again")
        self._session = session
        self._names = (*bundle.manifest.inputs, bundle.manifest.output)

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Backend.run`."""
        lr_name, noise_name, sr_name = self._names
        try:
            return self._session.run([sr_name], {lr_name: lr, noise_name: noise})[0]
        except self._errors as error:
            _raise_if_memory(error)
            raise BackendError(f"ONNX Runtime fails: {error}") from error

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same: the CPU computes in the precision that the graph asks for."""
        return self.run(lr, noise)

    def describe(self) -> str:
        """Name, version and device."""
        return f"ONNX Runtime {self._engine.__version__} on the CPU"


def _raise_if_memory(error: Exception) -> None:
    """ONNX Runtime has no error type of its own for exhausted memory, only these words."""
    if re.search(r"bad.?alloc|failed to allocate|out of memory", str(error), re.IGNORECASE):
        raise MemoryError(f"ONNX Runtime: {error}") from error


def _shapes(manifest: Manifest, graph: Graph) -> dict[str, tuple[int, ...]]:
    """Input and output name -> shape that the manifest promises for `graph`."""
    (height, width), scale = graph.tile, manifest.scale
    lr, noise = manifest.inputs
    return {
        lr: (graph.batch, 3, height, width),
        noise: (manifest.draws, graph.batch, manifest.latent_channels, height, width),
        manifest.output: (graph.batch, 3, scale * height, scale * width),
    }
