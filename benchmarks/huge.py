"""The memory that a huge picture takes, against what was promised beforehand.

    python -m lpnsr.benchmarks.huge [--model BUNDLE] [--width 12000] [--height 8000] [--format png]

upscales a made-up picture in a process of its own and prints the peak of its resident memory, the
bytes of input and output, and the estimate on which a picture is refused.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.command import memory
from lpnsr.runtime.pictures import images
from lpnsr.runtime.pictures.formats import FORMATS
from lpnsr.runtime.upscaler import Upscaler


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--width", type=int, default=12000)
    parser.add_argument("--height", type=int, default=8000)
    parser.add_argument("--format", choices=list(FORMATS), default="png")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "in.bmp"
        _make(source, args.width, args.height)
        command = [sys.executable, "-m", "lpnsr.runtime.command.cli", source, "-o", name]
        command += ["--model", args.model, "--format", args.format, "--suffix", "_x4"]
        start = time.perf_counter()
        subprocess.run(list(map(str, command)), check=True)
        seconds = time.perf_counter() - start
        _print(args, source, seconds)


def _make(path: Path, width: int, height: int) -> None:
    stripe = np.random.default_rng(0).integers(40, 200, (64, width, 3), dtype=np.uint8)
    Image.fromarray(np.tile(stripe, (-(-height // 64), 1, 1))[:height]).save(path)


def _print(args: argparse.Namespace, source: Path, seconds: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    header = images.probe(source)
    upscaler = Upscaler.from_bundle(args.model)
    scale = upscaler.bundle.manifest.scale
    target = (scale * args.height, scale * args.width)
    kind = FORMATS[args.format]
    needed = memory.needed(header, target, kind, upscaler.memory(header.size))
    pixels = args.width * args.height * 3
    print(f"{args.width}x{args.height} to {args.format} in {seconds:.0f} s")
    print(f"input {pixels / 1e9:.2f} GB, output {pixels * scale**2 / 1e9:.2f} GB as 8-bit RGB")
    print(f"peak {peak / 1e9:.2f} GB, estimated beforehand {needed / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
