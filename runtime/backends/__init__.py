"""Inference engines behind one small protocol, one file each; `registry` is their table."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from lpnsr.runtime.backends.base import BackendError
from lpnsr.runtime.backends.registry import BACKENDS, BackendInfo, EngineOptions
from lpnsr.runtime.backends.session import Backend
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import Graph

NAMES = ("auto", *BACKENDS)
PRECISIONS = ("auto", *dict.fromkeys(p for info in BACKENDS.values() for p in info.precisions))


def create(
    name: str = "auto",
    threads: int | None = None,
    precision: str = "auto",
    accurate: Collection[str] = ("fp32",),
    bundle: Bundle | None = None,
    graphs: Sequence[Graph] = (),
    device: str | None = None,
) -> tuple[Backend, str]:
    """Create the inference engine called `name`, and say why it was chosen.

    Args:
        name: one of `NAMES`; "auto" picks the fastest one that is installed and usable.
        threads: CPU threads per operation; by default the engine decides.
        precision: one of `PRECISIONS`; "auto" picks the fastest accurate one.
        accurate: precisions in which the model was found accurate at export.
        bundle: the bundle to run; without it, "auto" picks a CPU.
        graphs: the graphs of the bundle that may be run.
        device: "cpu", "cuda", or "cuda:1" for the second GPU; by default the engine's first device,
            and any device for "auto".

    Returns:
        the engine and, in a few words, why it was chosen over faster ones.

    Raises:
        BackendError: no such engine, device or precision, or the engine is not installed or cannot
            run this bundle here.
    """
    if name not in NAMES:
        raise BackendError(f"there is no backend {name}; choose from {', '.join(NAMES)}")
    if precision not in PRECISIONS:
        raise BackendError(f"there is no precision {precision}; it is {', '.join(PRECISIONS)}")
    kind, number = _device(device)
    options = EngineOptions(threads, precision, accurate, number)
    if name == "auto":
        return _fastest(options, bundle, graphs, kind)
    info = BACKENDS[name]
    if kind not in (None, info.device):
        raise BackendError(f"{info.label} has no device {device}; it runs on {info.device}")
    info.check_precision(precision)
    return _open(info, options, bundle, graphs), "as asked"


def _device(text: str | None) -> tuple[str | None, int]:
    """Kind and number of a device; any, by default."""
    if text is None:
        return None, 0
    match = re.fullmatch("(cpu)|(cuda)(?::([0-9]{1,3}))?", text)
    if not match:
        raise BackendError(f"there is no device {text}; it is cpu, cuda, or cuda:1 for the second")
    return match[1] or match[2], int(match[3] or 0)


def _open(
    info: BackendInfo, options: EngineOptions, bundle: Bundle | None, graphs: Sequence[Graph]
) -> Backend:
    if bundle:
        info.check_bundle(bundle.manifest)
    backend = info.open(options)
    if bundle:
        backend.check(bundle, graphs)
    return backend


def _fastest(
    options: EngineOptions, bundle: Bundle | None, graphs: Sequence[Graph], kind: str | None
) -> tuple[Backend, str]:
    """A GPU if the bundle or the installation is made for one, else a CPU."""
    refused: list[str] = []
    if bundle and options.precision == "auto" and kind != "cpu":
        built = {engine.builder for engine in bundle.manifest.engines}
        for info in (info for info in BACKENDS.values() if info.device == "cuda"):
            # Prebuilt engines only exist if the bundle contains them.
            if info.name not in built if info.prebuilt else not info.is_installed():
                continue
            try:
                backend = _open(info, options, bundle, graphs)
                return backend, "; ".join(["the fastest here", *refused])
            except BackendError as error:
                refused.append(f"not {info.name}: {error}")
    if kind == "cuda":
        for info in BACKENDS.values():
            if info.device == "cuda":
                info.check_precision(options.precision)
        why = "; ".join(refused) or "it holds no engine, and ONNX Runtime for GPUs is not installed"
        raise BackendError(f"the bundle cannot be run on a GPU: {why}")
    backend, why = _on_cpu(options, bundle, graphs)
    return backend, "; ".join([why, *refused])


def _on_cpu(
    options: EngineOptions, bundle: Bundle | None, graphs: Sequence[Graph]
) -> tuple[Backend, str]:
    """The fastest on a CPU; in bf16 only if that is accurate, faster, and the processor has it."""
    infos = [info for info in BACKENDS.values() if info.device == "cpu"]
    limits = [info.limit(bundle.manifest) for info in infos if bundle]
    able = (
        [info for info, limit in zip(infos, limits, strict=True) if not limit] if bundle else infos
    )
    reducing = [info for info in able if "bf16" in info.precisions]
    if options.precision == "bf16":
        return _first(reducing, options, bundle, graphs), "as asked"
    frugal = any(info.frugal and info.is_installed() for info in able)
    why = "the processor does not compute in bf16"
    if options.precision == "fp32":
        why = "bf16 is not wanted"
    elif "bf16" not in options.accurate:
        why = f"this model is not accurate in bf16{_cost_of_bf16(graphs, frugal)}"
    elif frugal:
        why = "bf16 would hardly be faster"
    else:
        try:
            backend = _first(reducing, replace(options, precision="bf16"), bundle, graphs)
            return backend, "the fastest here, as the processor computes in bf16"
        except BackendError:
            pass  # it is missing, or `why` holds
    backend = _first(able, replace(options, precision="fp32"), bundle, graphs)
    if len(able) < len(infos):
        return backend, next(limit for limit in limits if limit)
    if sum(info.is_installed() for info in infos) == 1:
        return backend, "no other engine is installed"
    return backend, f"the fastest here in fp32; {why}"


def _cost_of_bf16(graphs: Sequence[Graph], frugal: bool) -> str:
    """What the export has measured in bf16, if it has, and what it would gain.

    Args:
        graphs: the worst of them counts.
        frugal: whether a backend that needs fewer multiplications takes its place.
    """
    found = [graph.parity["bf16"] for graph in graphs if "bf16" in graph.parity]
    if not found:
        return ""
    worst = min(found, key=lambda parity: parity["sr_psnr"])
    near = worst.get("sr_near_share")
    share = "" if near is None else f", {near:.0%} of values within 2/255"
    gain = f"up to {'1.5 times' if frugal else 'twice'} as fast"
    return f" ({worst['sr_psnr']:.0f} dB from fp32{share}; --precision bf16 would be {gain})"


def _first(
    infos: Sequence[BackendInfo],
    options: EngineOptions,
    bundle: Bundle | None,
    graphs: Sequence[Graph],
) -> Backend:
    """The first engine that can be used.

    Raises:
        BackendError: none can; says why the first one cannot.
    """
    errors = []
    for info in infos:
        try:
            return _open(info, options, bundle, graphs)
        except BackendError as error:
            errors.append(error)
    raise errors[0] if errors else BackendError("no engine runs this bundle on a CPU as asked")
