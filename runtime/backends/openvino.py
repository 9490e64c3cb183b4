"""OpenVINO on the CPU: fp32, or bf16 where the processor computes in it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.host_pictures import HostSession
from lpnsr.runtime.backends.registry import EngineOptions
from lpnsr.runtime.backends.session import Backend, Session
from lpnsr.runtime.bundle import Bundle, inputs, shapes
from lpnsr.runtime.home import compiled_folder
from lpnsr.runtime.manifest import BundleError, Graph

if TYPE_CHECKING:
    import openvino as ov

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""Precision -> what OpenVINO calls it."""

_MEMORY = r"bad.?alloc|allocat|can't alloc|out of memory|not enough memory|temporarily unavailable"
"""What it says where memory has run out, or was refused to a thread: there is no error type."""


def create(name: str, options: EngineOptions) -> OpenVino:
    """See `lpnsr.runtime.backends.registry`."""
    return OpenVino(options.threads, options.precision, options.accurate)


def is_installed() -> bool:
    """Whether OpenVINO is installed; does not import it."""
    return find_spec("openvino") is not None


class OpenVino(Backend):
    """Runs a bundle's ONNX graph, compiled for this processor.

    Compiled graphs are kept in a folder (`compiled_folder`), so that later starts are quick.

    Args:
        threads: CPU threads; by default one per physical core.
        precision: "fp32", "bf16", or "auto", which is bf16 if that is accurate and the processor
            computes in it, else fp32.
        accurate: precisions in which the model was found accurate at export.

    Raises:
        BackendError: OpenVINO is not installed, or the processor does not compute in `precision`.
    """

    def __init__(
        self,
        threads: int | None = None,
        precision: str = "auto",
        accurate: Collection[str] = ("fp32",),
    ) -> None:
        try:
            import openvino
            from openvino import frontend
        except ImportError as error:
            raise BackendError(
                f'OpenVINO is missing ({error}); install it with: pip install "lpnsr[openvino]"'
            ) from error
        self._engine = openvino
        try:
            self._core = openvino.Core()
            # Asked for by name, as all others would comment on a damaged file.
            self._onnx = frontend.FrontEndManager().load_by_framework("onnx")
            has_bf16 = "BF16" in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot start: {_first_line(error)}") from error
        failures = [kind for name, kind in vars(frontend).items() if name.endswith("Failure")]
        self._errors = (RuntimeError, *failures)
        self._settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        with suppress(OSError, RuntimeError):  # nowhere to write, or no home at all
            folder = compiled_folder()
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK):
                self._settings["CACHE_DIR"] = str(folder)
        if threads:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        if precision == "bf16" and not has_bf16:
            raise BackendError("this processor does not compute in bf16; use --precision fp32")
        if precision == "auto":
            precision = "bf16" if has_bf16 and "bf16" in accurate else "fp32"
        self.precision = precision

    def load(self, bundle: Bundle, graph: Graph) -> Session:
        """Compile the graph for this processor; see `Backend.load`."""

        def compiled(precision: str) -> list[ov.CompiledModel]:
            path, promised = bundle.graph_path(graph), shapes(bundle.manifest, graph)
            return self._parts(path, precision, promised, bundle.manifest.precise)

        picture = [self._parts(bundle.stage_path(stage), "fp32") for stage in graph.picture]
        return _OpenVinoSession(bundle, graph, compiled, picture, self.precision, self._errors)

    def describe(self) -> str:
        """Name, version, device and precision."""
        version = self._engine.__version__.split("-")[0]
        return f"OpenVINO {version} on the CPU in {self.precision}"

    def _parts(
        self,
        path: Path,
        precision: str,
        promised: Mapping[str, tuple[int, ...]] | None = None,
        precise: Sequence[tuple[str, str]] = (),
    ) -> list[ov.CompiledModel]:
        """The graph in a file, compiled.

        OpenVINO takes a precision for a whole model, so a reduced one cuts it around what must stay
        precise: every second part is fp32.
        """
        try:
            model = self._onnx.convert(self._onnx.load(str(path)))
            if promised:
                _check(model, path, promised)
            parts = [model] if precision == "fp32" else self._cut(model, precise)
            return [
                self._compile(part, "fp32" if number % 2 else precision)
                for number, part in enumerate(parts)
            ]
        except self._errors as error:
            _raise_if_memory(error)
            raise BackendError(f"OpenVINO cannot load {path}: {_first_line(error)}") from error

    def _compile(self, model: ov.Model, precision: str) -> ov.CompiledModel:
        settings = {**self._settings, "INFERENCE_PRECISION_HINT": HINTS[precision]}
        return self._core.compile_model(model, "CPU", settings)

    def _cut(self, model: ov.Model, precise: Sequence[tuple[str, str]]) -> list[ov.Model]:
        """The model in parts that follow one another, cut at these pairs of tensors."""
        cuts = [name for pair in precise for name in pair]
        ports = {
            name: port
            for node in model.get_ordered_ops()
            for port in node.outputs()
            for name in port.names & set(cuts)
        }
        results, inputs = [], [model.get_parameters()]
        for port in (ports[name] for name in cuts):
            start = self._engine.opset13.parameter(port.get_shape(), port.get_element_type())
            for user in port.get_target_inputs():
                user.replace_source_output(start.output(0))
            results.append(self._engine.opset13.result(port))
            inputs.append([start])
        ends = [*results, *model.get_results()]
        return [
            self._engine.Model([result], parameters, f"part {number}")
            for number, (result, parameters) in enumerate(zip(ends, inputs, strict=True))
        ]


class _OpenVinoSession(HostSession):
    """A compiled graph; runs one batch at a time, each on all threads."""

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        compiled: Callable[[str], list[ov.CompiledModel]],
        picture: Sequence[Sequence[ov.CompiledModel]],
        precision: str,
        errors: tuple[type[Exception], ...],
    ) -> None:
        super().__init__(bundle, graph)
        self._compiled, self._precision, self._errors = compiled, precision, errors
        self._parts, self._picture = compiled(precision), picture
        self._precise = self._parts if precision == "fp32" else []
        self._lock = Lock()

    def estimate(self, lr: np.ndarray) -> dict[str, np.ndarray]:
        """What is made for a whole picture, in fp32; see `Session.estimate`."""
        found = {}
        with self._lock:
            for stage, parts in zip(self.graph.picture, self._picture, strict=True):
                (source,), (result,) = stage.inputs, stage.outputs
                found[result] = self._run(parts, {source: lr})
        return found

    def run(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """Upscale one batch; see `Session.run`."""
        with self._lock:
            return self._run(self._parts, inputs(self.manifest, lr, noise, given))

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """The same in fp32; the graph is compiled for it on first use."""
        with self._lock:
            self._precise = self._precise or self._compiled("fp32")
            return self._run(self._precise, inputs(self.manifest, lr, noise, given))

    def _run(
        self, parts: Sequence[ov.CompiledModel], values: Mapping[Any, np.ndarray]
    ) -> np.ndarray:
        try:
            for part in parts:
                result = part(values, share_outputs=False)[0]
                values = {0: result}
        except self._errors as error:
            _raise_if_memory(error)
            raise BackendError(f"OpenVINO fails: {_first_line(error)}") from error
        return result


def _check(model: ov.Model, path: Path, expected: Mapping[str, tuple[int, ...]]) -> None:
    found = {
        name: tuple(port.get_shape())
        for port in (*model.inputs, *model.outputs)
        for name in port.names & expected.keys() or port.names
    }
    if found != dict(expected):
        raise BundleError(f"{path} has tensors {found}, its manifest {expected}; export again")


def _raise_if_memory(error: Exception) -> None:
    if re.search(_MEMORY, str(error), re.IGNORECASE):
        raise MemoryError(f"OpenVINO: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """The message proper; OpenVINO surrounds it with places in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
