"""How much of the model's own speed a folder of small pictures reaches, with decoding and encoding.

    python -m lpnsr.benchmarks.folder [--model BUNDLE] [--pictures 100] [--side 64] [--rounds 3]

prints, per round, the seconds of the compute stage alone, of the whole run, their ratio, and the
run's seconds per output megapixel.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from threading import Event

import numpy as np
from PIL import Image

from lpnsr.runtime import backends, images
from lpnsr.runtime.bundle import BUILTIN
from lpnsr.runtime.formats import FORMATS
from lpnsr.runtime.jobs import plan
from lpnsr.runtime.pipeline import Pipeline
from lpnsr.runtime.recipe import Recipe
from lpnsr.runtime.upscaler import Upscaler


def main() -> None:
    """Run the benchmark as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BUILTIN)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--backend", choices=backends.NAMES, default="auto")
    parser.add_argument("--precision", choices=backends.PRECISIONS, default="auto")
    args = parser.parse_args()
    upscaler = Upscaler.from_bundle(args.model, backend=args.backend, precision=args.precision)
    megapixels = args.pictures * (upscaler.bundle.manifest.scale * args.side) ** 2 / 1e6
    print(upscaler.choice)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        _make(folder, args.pictures, args.side)
        upscaler.upscale(images.read(folder / "0.png").pixels)  # loads and warms up
        for number in range(args.rounds):
            alone = _compute(upscaler, folder)
            whole = _run(upscaler, folder, Path(name) / f"out{number}")
            print(
                f"compute alone {alone:.2f} s, run {whole:.2f} s: {alone / whole:.1%}, "
                f"{whole / megapixels:.2f} s per output megapixel"
            )


def _make(folder: Path, count: int, side: int) -> None:
    folder.mkdir()
    y, x = np.mgrid[:side, :side]
    rng = np.random.default_rng(0)
    for number in range(count):
        waves = [np.sin(y / rng.uniform(2, 20)) * np.cos(x / rng.uniform(2, 20)) for _ in range(3)]
        pixels = np.stack(waves, axis=-1) * 90 + rng.normal(128, 9, (side, side, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        image.save(folder / f"{number}.png")


def _compute(upscaler: Upscaler, folder: Path) -> float:
    """Seconds of the model for pictures that are in memory already."""
    pictures = [images.read(path).pixels for path in sorted(folder.iterdir())]
    start = time.perf_counter()
    for pixels in pictures:
        for _ in upscaler.bands(pixels):
            pass
    return time.perf_counter() - start


def _run(upscaler: Upscaler, folder: Path, output: Path) -> float:
    """Seconds of the same pictures from file to file."""
    pipeline = Pipeline(
        upscaler, Recipe(), FORMATS["png"], 95, print, lambda job, done, total: None, Event()
    )
    start = time.perf_counter()
    failed = [outcome for outcome in pipeline.run(plan([folder], output)) if outcome.error]
    assert not failed, failed
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
