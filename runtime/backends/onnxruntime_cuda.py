"""ONNX Runtime on an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np

from lpnsr.runtime.backends.base import BackendError, PrecisionError
from lpnsr.runtime.backends.host_pictures import HostSession
from lpnsr.runtime.backends.onnxruntime import OnnxRuntime, raise_failure
from lpnsr.runtime.backends.registry import EngineOptions
from lpnsr.runtime.backends.session import Session
from lpnsr.runtime.bundle import Bundle, shapes
from lpnsr.runtime.manifest import Graph

PROVIDER = "CUDAExecutionProvider"
_DEVICE = "cuda"


def create(name: str, options: EngineOptions) -> OnnxRuntimeCuda:
    """See `lpnsr.runtime.backends.registry`."""
    return OnnxRuntimeCuda(options.device)


def is_installed() -> bool:
    """Whether the ONNX Runtime that is installed is the one for GPUs."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return PROVIDER in onnxruntime.get_available_providers()


class OnnxRuntimeCuda(OnnxRuntime):
    """Runs a bundle's ONNX graph as it is, on a GPU, in the precision that it asks for.

    Inputs and outputs keep their addresses on the GPU, so that the work can be captured once in a
    CUDA graph and replayed.

    Args:
        device: number of the GPU.

    Raises:
        BackendError: ONNX Runtime for GPUs is not installed, or there is no such GPU.
    """

    _extra = "cuda"

    def __init__(self, device: int = 0) -> None:
        super().__init__()
        if not is_installed():
            raise BackendError(
                "the ONNX Runtime that is installed is for CPUs; change it with: "
                'pip uninstall onnxruntime && pip install "lpnsr[cuda]"'
            )
        if hasattr(self._engine, "preload_dlls"):
            self._engine.preload_dlls()  # CUDA and cuDNN as installed by pip
        self._device = device
        errors: tuple[type[BaseException], ...] = (*self._errors, RuntimeError)
        try:
            self.place(np.zeros(1, np.float32))
        except errors as error:
            reason = str(error).splitlines()[0]
            raise BackendError(f"ONNX Runtime finds no NVIDIA GPU {device}: {reason}") from error
        self._has_graph = True

    @property
    def threads(self) -> int:
        """See `Backend.threads`; a GPU computes one batch at a time."""
        return 1

    def divided(self, count: int) -> OnnxRuntimeCuda:
        """See `Backend.divided`; there is nothing to divide."""
        return self

    def load(self, bundle: Bundle, graph: Graph) -> Session:
        """Bring the graph to the GPU; see `Backend.load`."""
        (part,) = self._load_parts(bundle, graph).values()
        if part.get_providers()[0] != PROVIDER:
            raise BackendError(
                "ONNX Runtime cannot start on the GPU; see that CUDA and cuDNN are installed as "
                "its documentation asks, or use --backend onnxruntime"
            )
        return _CudaSession(bundle, graph, part, self.place, self._errors)

    def place(self, array: np.ndarray) -> Any:
        """A copy of an array on the GPU."""
        return self._engine.OrtValue.ortvalue_from_numpy(array, _DEVICE, self._device)

    def describe(self) -> str:
        """Name, version, device and whether there is a CUDA graph."""
        graph = "" if self._has_graph else " without CUDA graph"
        return f"ONNX Runtime {self._engine.__version__} on the GPU{graph}"

    def _open(self, path: str, options: Any) -> Any:
        """A session; without a CUDA graph where a part of it cannot be on the GPU."""
        for captures in (True, False):
            # Float32 means float32, not 10 bits of it.
            settings = {
                "device_id": str(self._device),
                "enable_cuda_graph": str(int(captures)),
                "use_tf32": "0",
            }
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


class _CudaSession(HostSession):
    """A graph on the GPU; runs one batch at a time, since all use the same memory there."""

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        part: Any,
        place: Callable[[np.ndarray], Any],
        errors: tuple[type[Exception], ...],
    ) -> None:
        super().__init__(bundle, graph)
        self._part, self._errors, self._lock = part, errors, Lock()
        self._names = (*self.manifest.inputs, self.manifest.output)
        self._values = {
            name: place(np.zeros(shape, np.float32))
            for name, shape in shapes(self.manifest, graph).items()
        }
        self._binding = part.io_binding()
        for name in self._names[:2]:
            self._binding.bind_ortvalue_input(name, self._values[name])
        self._binding.bind_ortvalue_output(self._names[2], self._values[self._names[2]])

    def run(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Session.run`."""
        lr_name, noise_name, sr_name = self._names
        try:
            with self._lock:
                for name, array in ((lr_name, lr), (noise_name, noise)):
                    if list(array.shape) != self._values[name].shape():
                        raise BackendError(
                            f"ONNX Runtime fails: {name} has the shape {array.shape}"
                        )
                    self._values[name].update_inplace(np.ascontiguousarray(array))
                self._part.run_with_iobinding(self._binding)
                return self._values[sr_name].numpy()
        except self._errors as error:
            raise_failure(error)

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """The same; a graph is computed in the precision that it asks for.

        Raises:
            PrecisionError: there is a higher one.
        """
        if set(self.manifest.precision.values()) <= {"fp32"}:
            return self.run(lr, noise, **given)
        raise PrecisionError(
            "in fp16 or bf16 numbers went out of range; make a bundle with: "
            "lpnsr-export --precision fp32"
        )
