"""The ways to run a chain that compete with each other, and why some of them cannot here."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lpnsr.benchmarks import authors
from lpnsr.benchmarks.timing import Run, reason
from lpnsr.export.engines import building, store
from lpnsr.export.graph import passes
from lpnsr.models.chain import Chain
from lpnsr.runtime import backends
from lpnsr.runtime.backends.engine_files import BUILDERS
from lpnsr.runtime.backends.registry import BACKENDS
from lpnsr.runtime.backends.tensorrt import TensorRt
from lpnsr.runtime.bundle import Bundle

EAGER = "PyTorch fp32"
AUTHORS, CALLS, TRACED = ", authors' procedure", ", authors' calls", ", graph as traced"
STAGED, UNCAPTURED = ", staged", ", without CUDA graph"
COMPILED = "PyTorch fp32, torch.compile"
ON_CPU = [name for name, info in BACKENDS.items() if info.device == "cpu"]
ON_GPU = [name for name, info in BACKENDS.items() if info.device == "cuda"]


@dataclass
class Methods:
    """What can run a chain on this machine.

    Attributes:
        runs: method -> upscales the one input.
        build: method -> seconds to make it ready: load, compile.
        missing: method -> why it is not there.
        engines: method -> bundle, backend and precision, where it is a backend of the runtime.
        use: what is done with each method as soon as it is ready, after which it is given up, so
            that memory holds one at a time; by default they are kept in `runs`.
    """

    runs: dict[str, Run] = field(default_factory=dict)
    build: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    engines: dict[str, tuple[Path, str, str]] = field(default_factory=dict)
    use: Callable[[str, Run], None] | None = None

    def add(self, name: str, make: Callable[[], Run]) -> None:
        """Make a method ready, or note why it cannot be."""
        start = time.perf_counter()
        try:
            run = make()
        except (RuntimeError, MemoryError) as error:
            self.missing[name] = reason(error)
            return
        self.build[name] = round(time.perf_counter() - start, 1)
        if self.use:
            self.use(name, run)
        else:
            self.runs[name] = run

    def add_eager(
        self, chain: Chain, lr: np.ndarray, noise: np.ndarray, compiles: bool = True
    ) -> None:
        """PyTorch: as it is, in the authors' procedure and, if it `compiles`, `torch.compile`."""
        compute_exactly()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        chain = chain.to(device)
        inputs = [torch.from_numpy(array).to(device) for array in (lr, noise)]

        def run(call: Callable[..., torch.Tensor]) -> Run:
            return lambda: call(*inputs).float().cpu().numpy()

        def compiled() -> Run:
            call = run(compile_networks(chain))
            with torch.no_grad():
                call()  # the first call compiles
            return call

        self.add(EAGER, lambda: run(chain))
        half = EAGER
        if device == "cuda":
            half = "PyTorch fp16 autocast"
            self.add(half, lambda: run(torch.autocast("cuda")(chain.__call__)))
        self.add(half + AUTHORS, lambda: run(lambda lr, noise: authors.sample(chain, lr, noise)))
        if compiles:
            self.add(COMPILED, compiled)
        else:
            self.missing[COMPILED] = "it compiles for minutes; add --compile"

    def add_engines(
        self,
        bundle: Bundle,
        lr: np.ndarray,
        noise: np.ndarray,
        mixed: Callable[[str], Bundle],
        traced: Bundle | None = None,
    ) -> None:
        """Every backend of the runtime in every precision, engines also staged and uncaptured.

        Args:
            bundle: holds one graph, in float32.
            lr: its input.
            noise: its input.
            mixed: makes the same in mixed precision and a topology, where a GPU is there to run it.
            traced: the same without the rewrites of `lpnsr.export.graph.passes`, to run in float32.
        """
        for engine in ON_CPU:
            for precision, computed in precisions(engine, bundle):
                self._add_engine(computed, bundle, engine, precision, lr, noise)
            fp32 = f"{label(engine)} fp32"
            if traced and fp32 in self.build:
                self.add(fp32 + TRACED, partial(_loaded, traced, engine, "fp32", lr, noise))
        for engine in ON_GPU:
            single, narrow = (f"{label(engine)} {computed}" for computed in ("fp32", "mixed"))
            if not self._add_engine("fp32", bundle, engine, "auto", lr, noise):
                self.missing[narrow] = self.missing[single]
                continue
            try:
                self._add_engine("mixed", mixed("unrolled"), engine, "auto", lr, noise)
                if engine in BUILDERS:
                    self._add_variants(engine, mixed, lr, noise)
            except RuntimeError as error:  # an export is out of tolerance
                self.missing[narrow] = reason(error)

    def _add_variants(
        self, engine: str, mixed: Callable[[str], Bundle], lr: np.ndarray, noise: np.ndarray
    ) -> None:
        """An engine for each network instead of one, and without a CUDA graph."""
        name = f"{label(engine)} mixed"
        for staged, topology in (("", "unrolled"), (STAGED, "staged")):
            for uncaptured, captures in (("", True), (UNCAPTURED, False)):
                if staged or uncaptured:
                    load = partial(_loaded, mixed(topology), engine, "auto", lr, noise, captures)
                    self.add(name + staged + uncaptured, load)

    def _add_engine(
        self,
        computed: str,
        bundle: Bundle,
        engine: str,
        precision: str,
        lr: np.ndarray,
        noise: np.ndarray,
    ) -> bool:
        """Whether the backend runs."""
        name = f"{label(engine)} {computed}"
        self.engines[name] = bundle.path, engine, precision
        self.add(name, partial(_loaded, bundle, engine, precision, lr, noise))
        return name in self.build


def compute_exactly() -> None:
    """Let PyTorch take float32 for float32 on a GPU, too, where convolutions keep 10 bits of it."""
    torch.backends.cudnn.allow_tf32 = False


def label(engine: str) -> str:
    """What a backend is called in tables."""
    return BACKENDS[engine].label if engine in BACKENDS else engine


def precisions(engine: str, bundle: Bundle) -> list[tuple[str, str]]:
    """What can be asked of a backend, and what it then computes in."""
    if engine in ON_CPU:
        return [(name, name) for name in backends.PRECISIONS if name != "auto"]
    # On a GPU the graph says what is computed in.
    single = set(bundle.manifest.precision.values()) == {"fp32"}
    return [("auto", "fp32" if single else "mixed")]


def _loaded(
    bundle: Bundle,
    engine: str,
    precision: str,
    lr: np.ndarray,
    noise: np.ndarray,
    captures: bool = True,
) -> Run:
    """A backend with the bundle's first graph, whose engine is built where it takes one.

    Raises:
        BackendError: the backend is not installed or cannot do it.
    """
    if engine in BUILDERS:
        wanted, bundle = building.order(engine), Bundle.open(bundle.path)
        for file in bundle.manifest.graphs[0].files:
            bundle, _ = store.add_engine(bundle, file, wanted, lambda phase, done: None)
    graph = bundle.manifest.graphs[0]
    if captures:
        backend, _ = backends.create(engine, None, precision, graph.precisions, bundle, [graph])
    else:
        backend = TensorRt(engine, cuda_graph=False)
    session = backend.load(bundle, graph)
    return lambda: session.run(lr, noise, **session.estimate(lr))


def compile_networks(chain: Chain) -> Chain:
    """The chain with each network compiled by `torch.compile`; weights are shared."""
    return chain.replaced(**{name: _compiled(module) for name, module in chain.named_children()})


def _compiled(module: nn.Module) -> nn.Module:
    """A network, or the parts of one that is not called as a whole, such as an autoencoder."""
    module = copy.copy(module)
    if "forward" in vars(type(module)):
        module.compile()
    else:
        parts = {name: _compiled(part) for name, part in module.named_children()}
        module._modules = {**module._modules, **parts}
    return module


@contextmanager
def without_rewrites() -> Iterator[None]:
    """Graphs are exported as they were traced meanwhile."""
    rewrite, passes.rewrite = passes.rewrite, lambda model: None
    try:
        yield
    finally:
        passes.rewrite = rewrite
