"""Runs ONNX files for verification, in each precision that this machine computes in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir

from lpnsr.runtime.backends.onnxruntime_winograd import WEIGHTS_FOLDER, prepare
from lpnsr.runtime.backends.openvino import HINTS

Values = dict[str, np.ndarray]
Run = Callable[[Values], Values]


class EngineMissingError(RuntimeError):
    """ONNX Runtime, which verifies exports, is not installed."""


def run_onnxruntime(
    source: Path | ir.Model, folder: Path | None = None, winograd: bool = False
) -> Run:
    """Runs a graph as it is.

    Args:
        source: its file, or the graph itself.
        folder: of the graph's external weights, if it is given itself.
        winograd: runs it as the backend with Winograd convolutions does.

    Raises:
        EngineMissingError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineMissingError(
            "verification needs ONNX Runtime; install it with: pip install 'lpnsr[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content: bytes | Path
    if isinstance(source, ir.Model):
        content, folder = ir.to_proto(source).SerializeToString(), folder or Path()
    else:
        content, folder = source, source.parent
    if winograd:
        model = content.read_bytes() if isinstance(content, Path) else content
        content = prepare(model, folder, options)
    elif isinstance(content, bytes):
        options.add_session_config_entry(WEIGHTS_FOLDER, str(folder))
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda values: dict(zip(names, session.run(names, values), strict=True))


def run_openvino(file: Path, precision: str) -> Run:
    """Runs the graph in `file` in "fp32" or, see `computes_bf16`, "bf16"."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(file, "CPU", settings)

    def run(values: Values) -> Values:
        results = compiled(values, share_outputs=False).items()
        return {name: value for port, value in results for name in port.names}

    return run


def computes_bf16() -> bool:
    """Whether OpenVINO is installed and this processor computes in bfloat16."""
    try:
        import openvino
    except ImportError:
        return False
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
