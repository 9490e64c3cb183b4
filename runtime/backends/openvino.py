"""OpenVINO on the CPU: float32, or bfloat16 where the processor computes in it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.runtime.backends.base import Backend, BackendError
from lpnsr.runtime.bundle import Bundle, BundleError, Graph, shapes
from lpnsr.runtime.home import compiled_folder

if TYPE_CHECKING:
    import openvino as ov

LATENT, QUANTIZED = "x_0", "quantized"
"""Tensors before and after the search for the nearest code. Its near-ties ask for float32, and
OpenVINO takes a precision for a whole model, so there the graph is cut."""


class OpenVino(Backend):
    """Runs a bundle's ONNX graph, compiled for this processor.

    Compiled graphs are kept in a folder (`compiled_folder`), so that later starts are quick.

    Args:
        threads: CPU threads; by default one per physical core.
        precision: "f32", "bf16", or "auto", which is bf16 if that is accurate and the processor
            computes in it, else f32.
        accurate: precisions in which the model was found accurate at export.

    Raises:
        BackendError: OpenVINO is not installed, or the processor does not compute in `precision`.
    """

    def __init__(
        self,
        threads: int | None = None,
        precision: str = "auto",
        accurate: Collection[str] = ("f32",),
    ) -> None:
        try:
            import openvino
            from openvino import frontend
        except ImportError as error:
            raise BackendError(
                f'OpenVINO is missing ({error}); install it with: pip install "lpnsr[openvino]"'
            ) from error
        self._engine = openvino
        self._core = openvino.Core()
        # Asked for by name, as all others would comment on a damaged file.
        self._onnx = frontend.FrontEndManager().load_by_framework("onnx")
        failures = [kind for name, kind in vars(frontend).items() if name.endswith("Failure")]
        self._errors = (RuntimeError, *failures)
        self._settings = {"PERFORMANCE_HINT": "LATENCY"}
        with suppress(OSError, RuntimeError):  # nowhere to write, or no home at all
            folder = compiled_folder()
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                self._settings["CACHE_DIR"] = str(folder)
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self.has_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not self.has_bf16:
            raise BackendError("this processor does not compute in bf16; use --precision f32")
        if precision == "auto":
            precision = "bf16" if self.has_bf16 and "bf16" in accurate else "f32"
        self.precision = precision
        self._graph: tuple[Bundle, Graph] | None = None
        self._stages: list[ov.CompiledModel] = []
        self._precise: list[ov.CompiledModel] = []

    def load(self, bundle: Bundle, graph: Graph) -> None:
        """Compile the graph for this processor; see `Backend.load`."""
        if graph.stages:
            raise BackendError(
                "OpenVINO runs unrolled bundles only; use --backend onnxruntime, "
                "or export the bundle with --topology unrolled"
            )
        self._stages, self._precise = [], []  # frees the previous graph's weights first
        self._graph = bundle, graph
        self._stages = self._compiled(self.precision)

    def run(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Backend.run`."""
        return self._run(self._stages, lr, noise)

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """The same in float32, for which the graph is compiled when first asked for."""
        if self.precision == "f32":
            return self.run(lr, noise)
        self._precise = self._precise or self._compiled("f32")
        return self._run(self._precise, lr, noise)

    def describe(self) -> str:
        """Name, version, device and precision."""
        version = self._engine.__version__.split("-")[0]
        return f"OpenVINO {version} on the CPU in {self.precision}"

    def _compiled(self, precision: str) -> list[ov.CompiledModel]:
        bundle, graph = self._graph
        path = bundle.graph_path(graph)
        try:
            model = self._onnx.convert(self._onnx.load(str(path)))
            _check(model, path, shapes(bundle.manifest, graph))
            parts = [model] if precision == "f32" else self._cut(model)
            return [self._compile(part, precision) for part in parts]
        except self._errors as error:
            _raise_if_memory(error)
            raise BackendError(f"OpenVINO cannot load {path}: {_first_line(error)}") from error

    def _compile(self, model: ov.Model, precision: str) -> ov.CompiledModel:
        hint = "f32" if model.friendly_name == "search" else precision
        settings = {**self._settings, "INFERENCE_PRECISION_HINT": hint}
        return self._core.compile_model(model, "CPU", settings)

    def _cut(self, model: ov.Model) -> list[ov.Model]:
        """The model before, in and after the search for codes; whole, if it has no such search."""
        ports = {
            name: port
            for node in model.get_ordered_ops()
            for port in node.outputs()
            for name in port.names & {LATENT, QUANTIZED}
        }
        if QUANTIZED not in ports:
            return [model]
        (sr,) = model.get_results()
        results, inputs = [], [model.get_parameters()]
        for port in (ports[LATENT], ports[QUANTIZED]):
            start = self._engine.opset13.parameter(port.get_shape(), port.get_element_type())
            for user in port.get_target_inputs():
                user.replace_source_output(start.output(0))
            results.append(self._engine.opset13.result(port))
            inputs.append([start])
        names = ("chain", "search", "decoder")
        return [
            self._engine.Model([result], parameters, name)
            for result, parameters, name in zip([*results, sr], inputs, names, strict=True)
        ]

    def _run(self, stages: list[ov.CompiledModel], lr: np.ndarray, noise: np.ndarray) -> np.ndarray:
        values = dict(zip(self._graph[0].manifest.inputs, (lr, noise), strict=True))
        try:
            for stage in stages:
                result = stage(values, share_outputs=False)[0]
                values = {0: result}
        except self._errors as error:
            _raise_if_memory(error)
            raise BackendError(f"OpenVINO fails: {_first_line(error)}") from error
        return result


def _check(model: ov.Model, path: Path, expected: dict[str, tuple[int, ...]]) -> None:
    found = {
        name: tuple(port.get_shape())
        for port in (*model.inputs, *model.outputs)
        for name in port.names & expected.keys() or port.names
    }
    if found != expected:
        raise BundleError(f"{path} has tensors {found}, its manifest {expected}; export again")


def _raise_if_memory(error: Exception) -> None:
    """OpenVINO has no error type of its own for exhausted memory, only these words."""
    if re.search(r"bad.?alloc|allocat|out of memory|not enough memory", str(error), re.IGNORECASE):
        raise MemoryError(f"OpenVINO: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """OpenVINO's messages go on with places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
