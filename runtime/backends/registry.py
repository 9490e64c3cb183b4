"""The table of inference engines: their names, what they can do, and where their code is.

To add one, write a file in this folder with a class derived from `session.Backend`, whose sessions
derive from `host_pictures.HostSession` if the host is to cut and blend the tiles, and the functions
`create(name, options)` and `is_installed()`; import the engine only inside them. Then add a line to
`BACKENDS` and an extra to `pyproject.toml`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.session import Backend
from lpnsr.runtime.manifest import TOPOLOGIES, Manifest


@dataclass(frozen=True)
class EngineOptions:
    """What to ask of an engine.

    Attributes:
        threads: CPU threads per operation; None lets the engine decide.
        precision: "auto", or one of the engine's precisions.
        accurate: precisions in which the model was found accurate at export.
        device: number of the device among those of its kind, from 0.
    """

    threads: int | None = None
    precision: str = "auto"
    accurate: Collection[str] = ("fp32",)
    device: int = 0


@dataclass(frozen=True)
class BackendInfo:
    """One inference engine.

    Attributes:
        name: on the command line.
        label: in messages and tables.
        module: its file in this folder.
        device: the kind of device that it runs on, "cpu" or "cuda".
        precisions: the precisions it can be asked for; none if the bundle alone decides.
        stored: the precisions of networks in a bundle that it can run.
        topologies: the topologies of bundles that it can run.
        prebuilt: whether it needs engines in the bundle that were built for the GPU beforehand.
        whole: whether it runs models that look at the whole picture first, or draw no noise.
        frugal: whether it needs fewer multiplications, which makes it as fast in fp32 as others
            are in bf16.
    """

    name: str
    label: str
    module: str
    device: str
    precisions: tuple[str, ...] = ()
    stored: tuple[str, ...] = ("fp32", "fp16", "bf16")
    topologies: tuple[str, ...] = TOPOLOGIES
    prebuilt: bool = False
    whole: bool = False
    frugal: bool = False

    def open(self, options: EngineOptions) -> Backend:
        """Create the engine.

        Raises:
            BackendError: it is not installed or cannot be used here.
        """
        return self._code().create(self.name, options)

    def is_installed(self) -> bool:
        """Whether its package is installed."""
        return self._code().is_installed()

    def _code(self) -> ModuleType:
        return import_module(f"lpnsr.runtime.backends.{self.module}")

    def limit(self, manifest: Manifest) -> str | None:
        """Why it cannot run a bundle; None if it can."""
        if manifest.topology not in self.topologies:
            return f"{self.label} runs {self.topologies[0]} bundles only"
        beyond = sorted(set(manifest.precision.values()) - set(self.stored))
        return f"{self.label} does not compute in {beyond[0]}" if beyond else None

    def check_bundle(self, manifest: Manifest) -> None:
        """Refuse a bundle that the engine cannot run.

        Raises:
            BackendError: the message says what can run it, and which export would help.
        """
        if manifest.looks_ahead and not self.whole:
            able = " or ".join(i.name for i in BACKENDS.values() if i.whole)
            raise BackendError(
                f"{self.label} does not run models yet that look at the whole picture first or "
                f"draw no noise; use --backend {able}"
            )
        limit = self.limit(manifest)
        if not limit:
            return
        others = [
            i.name for i in BACKENDS.values() if i.device == self.device and not i.limit(manifest)
        ]
        use = f"use --backend {others[0]}, or " if others else ""
        option = f"--topology {self.topologies[0]}"
        if manifest.topology in self.topologies:
            option = f"--precision {' or '.join(self.stored)}"
        raise BackendError(f"{limit}; {use}export the bundle with {option}")

    def check_precision(self, precision: str) -> None:
        """Refuse a precision that the engine cannot be asked for.

        Raises:
            BackendError: the message says what to ask for instead.
        """
        if precision in ("auto", *self.precisions):
            return
        if not self.precisions:
            raise BackendError(
                "on a GPU the bundle says what is computed in; leave out --precision"
            )
        able = [info.name for info in BACKENDS.values() if precision in info.precisions]
        raise BackendError(
            f"{self.label} does not compute in {precision}; use --backend {able[0]} or "
            f"--precision {' or '.join(self.precisions)}"
        )


BACKENDS = {
    info.name: info
    for info in (
        BackendInfo(
            "onnxruntime-winograd",
            "ONNX Runtime Winograd",
            module="onnxruntime_winograd",
            device="cpu",
            precisions=("fp32",),
            stored=("fp32", "fp16"),
            whole=True,
            frugal=True,
        ),
        BackendInfo(
            "onnxruntime",
            "ONNX Runtime",
            module="onnxruntime",
            device="cpu",
            precisions=("fp32",),
            stored=("fp32", "fp16"),
            whole=True,
        ),
        BackendInfo(
            "openvino",
            "OpenVINO",
            module="openvino",
            device="cpu",
            precisions=("fp32", "bf16"),
            topologies=("unrolled",),
            whole=True,
        ),
        BackendInfo(
            "onnxruntime-cuda",
            "ONNX Runtime CUDA",
            module="onnxruntime_cuda",
            device="cuda",
            topologies=("unrolled",),
        ),
        BackendInfo("tensorrt", "TensorRT", module="tensorrt", device="cuda", prebuilt=True),
        BackendInfo(
            "tensorrt-rtx", "TensorRT-RTX", module="tensorrt", device="cuda", prebuilt=True
        ),
    )
}
"""Name -> engine; all else being equal, the first one is preferred."""
