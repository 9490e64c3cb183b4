"""A folder of pictures from file to file, in seconds per output megapixel.

The authors' procedure pads each picture and cuts it into tiles that overlap by half; ours is what
`lpnsr-run` does. Both read the files and write PNG. PSNR is to ours in eager PyTorch; the authors'
procedure draws other noise.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image

from lpnsr.benchmarks import authors, machine, pages, small
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.measure import build_chain
from lpnsr.benchmarks.methods import (
    AUTHORS,
    CALLS,
    EAGER,
    Methods,
    compute_exactly,
    label,
    precisions,
)
from lpnsr.benchmarks.timing import Row, Run, spread, time_in_turns, times_as_fast
from lpnsr.models.chain import Chain
from lpnsr.models.presets import get_preset
from lpnsr.runtime.backends.host_pictures import HostSession
from lpnsr.runtime.backends.registry import BACKENDS
from lpnsr.runtime.backends.session import Backend, Session
from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.command.jobs import Job, plan
from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.pictures import images
from lpnsr.runtime.upscaler import Description, Upscaler


class EagerBackend(Backend):
    """A backend of the runtime that runs the eager chain, whatever the graph.

    Args:
        chain: the networks.
        call: `Chain.forward`, or what stands in for it.
    """

    def __init__(self, chain: Chain, call: Callable[..., torch.Tensor]) -> None:
        self._chain, self._call = chain, call

    def load(self, bundle: Bundle, graph: Graph) -> Session:
        """A session in which the chain takes the place of the graph."""
        return _EagerSession(bundle, graph, self._chain, self._call)

    def describe(self) -> str:
        """Name and device."""
        return f"PyTorch {torch.__version__} on {_device(self._chain)} in fp32"


class _EagerSession(HostSession):
    def __init__(
        self, bundle: Bundle, graph: Graph, chain: Chain, call: Callable[..., torch.Tensor]
    ) -> None:
        super().__init__(bundle, graph)
        self._chain, self._call, self._device = chain, call, _device(chain)

    @torch.no_grad()
    def estimate(self, lr: np.ndarray) -> dict[str, np.ndarray]:
        """What is made for a whole picture."""
        found = self._chain.estimate(torch.from_numpy(lr).to(self._device))
        return {name: value.cpu().numpy() for name, value in found.items()}

    @torch.no_grad()
    def run(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """Upscale one batch."""
        values = {"lr": lr, "noise": noise, **given}
        tensors = {name: torch.from_numpy(value).to(self._device) for name, value in values.items()}
        return self._call(**tensors).cpu().numpy()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench folder`."""
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", nargs="?", help="pictures to upscale")
    add(
        "--small",
        action="store_true",
        help="instead of DIR: 100 generated pictures of 48 to 200 pixels a side, against the time "
        "that their tiles alone take",
    )
    add("--model", type=Path, default=BUILTIN, metavar="BUNDLE", help="default: the built-in")
    add("--weights", type=Path, help="checkpoints of the bundle's preset, for PyTorch")
    add("--runs", type=int, default=3, help="timed rounds (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code.

    Raises:
        ValueError: there is either no folder, or one beside `--small`.
    """
    if args.small == bool(args.folder):
        raise ValueError("give a folder of pictures, or --small")
    if args.small:
        with Upscaler.from_bundle(args.model) as upscaler:
            print(small.measure(upscaler, args.runs))
        return 0
    bundle = Bundle.open(args.model)
    chain, origin = build_chain(get_preset(bundle.manifest.preset), args.weights)
    chain = chain.to("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name:
        jobs = plan([args.folder], Path(name)).jobs
        sizes = [images.probe(job.source).size for job in jobs]
        methods = Methods()
        add_ours(methods, chain, bundle, jobs)
        add_theirs(methods, chain, bundle, jobs)
        about = machine.environment()
        row = time_in_turns(Row(args.folder.name, 0), methods.runs, args.runs)
    kept = {
        "preset": bundle.manifest.preset,
        "weights": origin,
        "machine": about,
        "sizes": sizes,
        "scale": bundle.manifest.scale,
        "row": asdict(row),
        "missing": methods.missing | row.failed,
    }
    print(json.dumps(about), file=sys.stderr)
    print(describe(kept))
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


def add_ours(methods: Methods, chain: Chain, bundle: Bundle, jobs: Sequence[Job]) -> None:
    """What `lpnsr-run` does, in eager PyTorch and in every engine."""
    compute_exactly()

    def engine(name: str, precision: str) -> Run:
        upscaler = Upscaler.from_bundle(bundle.path, backend=name, precision=precision)
        return partial(_pipeline, upscaler, jobs)

    methods.add(EAGER, lambda: _eager(chain, chain, bundle, jobs))
    for name in BACKENDS:
        for precision, computed in precisions(name, bundle):
            methods.add(f"{label(name)} {computed}", partial(engine, name, precision))


def add_theirs(methods: Methods, chain: Chain, bundle: Bundle, jobs: Sequence[Job]) -> None:
    """The authors' procedure in eager PyTorch, and ours with their calls."""
    calls = partial(authors.sample, chain)
    methods.add(EAGER + CALLS, lambda: _eager(chain, calls, bundle, jobs))
    methods.add(EAGER + AUTHORS, lambda: partial(_authors, chain, jobs))


def describe(kept: dict, main: bool = False) -> str:
    """Markdown of what `--json` keeps, or its `main` table alone."""
    row, scale = Row(**kept["row"]), kept["scale"]
    megapixels = scale**2 * sum(height * width for height, width in kept["sizes"]) / 1e6
    theirs = next(values for name, values in row.seconds.items() if AUTHORS in name)
    seen = sum(authors.processed(size) for size in kept["sizes"])
    share = seen * scale**2 / 1e6 / megapixels
    lines = [
        [
            name,
            spread(values),
            f"{median(values) / megapixels:.2f}",
            times_as_fast(values, theirs),
            f"{row.psnr[name]:.0f} dB" if name != EAGER else "reference",
        ]
        for name, values in row.seconds.items()
    ]
    machine = kept["machine"]
    header = ["method", "median, spread", "s per output MP", "times as fast", "PSNR to eager"]
    absent = [f"- {name}: {reason}" for name, reason in kept["missing"].items()]
    parts = [
        f"{len(kept['sizes'])} pictures, {megapixels:.2f} output megapixels, `{kept['preset']}`, "
        f"{kept['weights']}; {machine['processor']}, {machine['cores']} cores. The authors' "
        f"procedure gives the networks {share:.2f} times the pictures' pixels.",
        table(header, lines),
    ]
    if not main:
        parts += [
            "Times as fast as the authors' procedure, as factors whose product is the total:",
            pages.causes_table([(kept["preset"], row.seconds)]),
        ]
        parts += ["Not possible here:", "\n".join(absent)] if absent else []
    return "\n\n".join(parts)


def _device(chain: Chain) -> torch.device:
    return next(chain.parameters()).device


def _eager(
    chain: Chain, call: Callable[..., torch.Tensor], bundle: Bundle, jobs: Sequence[Job]
) -> Run:
    return partial(_pipeline, Upscaler(Description(bundle.path), EagerBackend(chain, call)), jobs)


def _authors(chain: Chain, jobs: Sequence[Job]) -> np.ndarray:
    pictures = []
    for job in jobs:
        picture = authors.upscale(chain, _read(job.source))
        Image.fromarray(picture).save(job.target)
        pictures.append(picture)
    return _signed(pictures)


def _pipeline(upscaler: Upscaler, jobs: Sequence[Job]) -> np.ndarray:
    small.upscale(upscaler, jobs)
    return _signed([_read(job.target) for job in jobs])


def _read(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def _signed(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([picture.ravel() for picture in pictures]) / np.float32(127.5) - 1
