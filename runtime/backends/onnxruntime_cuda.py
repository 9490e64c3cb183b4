"""ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lpnsr.runtime.backends.base import BackendError, PrecisionError
from lpnsr.runtime.backends.onnxruntime import OnnxRuntime
from lpnsr.runtime.bundle import Bundle, Graph, shapes

PROVIDER = "CUDAExecutionProvider"
_DEVICE = "cuda"


def is_installed() -> bool:
    """Whether the ONNX Runtime that is installed is the one for GPUs."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return PROVIDER in onnxruntime.get_available_providers()


class OnnxRuntimeCuda(OnnxRuntime):
    """Runs a bundle's ONNX graph as it is, on a GPU, in the precision that it asks for.

    Input and output stay at the same place on the GPU, so that the work is captured once in a CUDA
    graph and replayed.

    Raises:
        BackendError: ONNX Runtime for GPUs is not installed, or there is no GPU.
    """

    _extra = "cuda"
    _has_bf16 = True

    def __init__(self) -> None:
        super().__init__()
        if not is_installed():
            raise BackendError(
                "the ONNX Runtime that is installed is for CPUs; change it with: "
                'pip uninstall onnxruntime && pip install "lpnsr[cuda]"'
            )
        if hasattr(self._engine, "preload_dlls"):
            self._engine.preload_dlls()  # CUDA and cuDNN as installed by pip
        try:
            self._place(np.zeros(1, np.float32))
        except (*self._errors, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise BackendError(f"ONNX Runtime finds no NVIDIA GPU: {reason}") from error
        self._has_graph = True

    def check(self, bundle: Bundle, graphs: Sequence[Graph]) -> None:
        """See that these graphs can be run.

        Raises:
            BackendError: one cannot.
        """
        if any(graph.stages for graph in graphs):
            raise BackendError(
                "ONNX Runtime runs unrolled bundles only on a GPU; use --backend tensorrt, or "
                "export the bundle with --topology unrolled"
            )

    def load(self, bundle: Bundle, graph: Graph) -> None:
        """Bring the graph to the GPU; see `Backend.load`."""
        self.check(bundle, [graph])
        self._session = self._binding = self._values = (
            None  # frees the previous graph's memory first
        )
        super().load(bundle, graph)
        self._session = self._sessions[graph.file]
        self._names = (*bundle.manifest.inputs, bundle.manifest.output)
        if self._session.get_providers()[0] != PROVIDER:
            raise BackendError(
                "ONNX Runtime cannot start on the GPU; see that CUDA and cuDNN are installed as "
                "its documentation asks, or use --backend onnxruntime"
            )
        self._values = {
            name: self._place(np.zeros(shape, np.float32))
            for name, shape in shapes(bundle.manifest, graph).items()
        }
        self._binding = self._session.io_binding()
        for name in self._names[:2]:
            self._binding.bind_ortvalue_input(name, self._values[name])
        self._binding.bind_ortvalue_output(self._names[2], self._values[self._names[2]])

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Backend.run`."""
        lr_name, noise_name, sr_name = self._names
        try:
            for name, array in ((lr_name, lr), (noise_name, noise)):
                if list(array.shape) != self._values[name].shape():
                    raise BackendError(f"ONNX Runtime fails: {name} has the shape {array.shape}")
                self._values[name].update_inplace(np.ascontiguousarray(array))
            self._session.run_with_iobinding(self._binding)
            return self._values[sr_name].numpy()
        except self._errors as error:
            self._raise(error)

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same; a graph is computed in the precision that it asks for.

        Raises:
            PrecisionError: there is a higher one.
        """
        if set(self._loaded[0].manifest.precision.values()) <= {"fp32"}:
            return self.run(lr, noise)
        raise PrecisionError(
            "in fp16 or bf16 numbers went out of range; make a bundle with: "
            "lpnsr-export --precision fp32"
        )

    def describe(self) -> str:
        """Name, version, device and whether there is a CUDA graph."""
        graph = "" if self._has_graph else " without CUDA graph"
        return f"ONNX Runtime {self._engine.__version__} on the GPU{graph}"

    def _place(self, array: np.ndarray) -> Any:
        return self._engine.OrtValue.ortvalue_from_numpy(array, _DEVICE, 0)

    def _open(self, path: str, options: Any) -> Any:
        """A session; without a CUDA graph where a part of it cannot be on the GPU."""
        for captures in (True, False):
            # Float32 means float32, not 10 bits of it.
            settings = {"enable_cuda_graph": str(int(captures)), "use_tf32": "0"}
            try:
                session = self._engine.InferenceSession(
                    path, options, providers=[(PROVIDER, settings), "CPUExecutionProvider"]
                )
            except self._errors as error:
                if captures and "graph capture" in str(error):
                    continue
                raise
            self._has_graph = captures
            return session
