"""ONNX Runtime on the CPU, with operators of our own that need less work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lpnsr.kernels.operators import library
from lpnsr.runtime.backends import onnxruntime
from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.registry import EngineOptions
from lpnsr.runtime.backends.winograd_graph import with_winograd
from lpnsr.runtime.onnxfile import DamagedError

WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Where ONNX Runtime finds the weights of a graph that it is not given as a file."""


def create(name: str, options: EngineOptions) -> OnnxRuntimeWinograd:
    """See `lpnsr.runtime.backends.registry`."""
    return OnnxRuntimeWinograd(options.threads)


def is_installed() -> bool:
    """Whether there is an ONNX Runtime, and this package was built with the convolutions."""
    return onnxruntime.is_installed() and library() is not None


def prepare(model: bytes, folder: Path, options: Any) -> bytes:
    """What a session is to be made of, in the place of an ONNX model.

    Args:
        model: the model.
        folder: of its weights.
        options: of the session, to which the places of weights and convolutions are added.

    Raises:
        DamagedError: the model is not well-formed.
    """
    options.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
    options.register_custom_ops_library(str(library()))
    return with_winograd(model)


class OnnxRuntimeWinograd(onnxruntime.OnnxRuntime):
    """Runs a bundle's ONNX graphs with `lpnsr.kernels.operators` in place of many nodes.

    These are made in fp32, with a quarter of the multiplications; the graphs in the bundle are
    those of all other engines. See `lpnsr.runtime.backends.winograd_graph` for which these are.

    Args:
        threads: CPU threads per operation; by default one per physical core.
        lanes: batches of a picture that are computed at the same time.

    Raises:
        BackendError: ONNX Runtime is not installed, or the convolutions were not built.
    """

    def __init__(self, threads: int | None = None, lanes: int = 1) -> None:
        super().__init__(threads, lanes)
        if library() is None:
            raise BackendError(
                "lpnsr was installed without its compiled convolutions; use --backend onnxruntime, "
                "or install it again where there is GCC 12 or Clang"
            )

    def _open(self, path: str, options: Any) -> Any:
        try:
            model = prepare(Path(path).read_bytes(), Path(path).parent, options)
        except DamagedError as error:
            raise BackendError(f"ONNX Runtime cannot load {path}: {error}") from error
        return self._engine.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def describe(self) -> str:
        """Name, version, device and what is different."""
        return f"{super().describe()} with Winograd convolutions"
