"""What an iteration of training takes: seconds and memory of `lpnsr-train denoiser`.

Weights are deterministic and pictures are noise, as neither affects speed. Published figures are
those of UPSR, table 3; there as here, neither perception nor a discriminator is judged by.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from lpnsr.benchmarks import deterministic, machine
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.timing import spread
from lpnsr.benchmarks.workloads import TRAINING, TRAINING_BATCH
from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.training import cli
from lpnsr.models.training.config import load_config
from lpnsr.models.training.estimate import estimate

CONFIG = """\
preset = "{preset}"

[denoiser]
iterations = {iterations}
batch = {batch}
crop = {crop}
perceptual = 0.0
adversarial = 0.0
checkpoint_activations = false
"""
STAGE = "denoiser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `lpnsr-bench training`."""
    add = parser.add_argument
    add("--batch", type=int, default=TRAINING_BATCH, metavar="N", help="default: %(default)s")
    add("--crop", type=int, default=64, metavar="SIDE", help="default: %(default)s")
    add("--runs", type=int, default=5, help="iterations after the first (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures there")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit code.

    Raises:
        RuntimeError: a training fails.
    """
    kept: dict[str, Any] = {
        "machine": machine.environment(),
        "batch": args.batch,
        "crop": args.crop,
        "models": {name: _measure(name, args.batch, args.crop, args.runs) for name in TRAINING},
    }
    print(describe(kept))
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0


def describe(kept: dict[str, Any]) -> str:
    """Markdown of what `--json` keeps."""
    about, batch = kept["machine"], kept["batch"]
    header = [
        "model",
        "an iteration, spread",
        "peak memory",
        f"estimated for {TRAINING_BATCH}, in float32",
        f"*published: UPSR, table 3, {TRAINING_BATCH} pictures per GPU*",
    ]
    lines = [
        [
            published.label,
            spread(kept["models"][name]["seconds"]),
            f"{kept['models'][name]['memory'] / 1e9:.1f} GB",
            f"{kept['models'][name]['estimated'] / 1e9:.1f} GB",
            f"{published.seconds:g} s, {published.gigabytes:g} GB",
        ]
        for name, published in TRAINING.items()
    ]
    other = "" if batch == TRAINING_BATCH else " **Not comparable with the published figures.**"
    runs = len(next(iter(kept["models"].values()))["seconds"])
    return (
        f"`lpnsr-train denoiser`, batch {batch} of {kept['crop']}x{kept['crop']}, autocast to "
        f"bfloat16, all activations kept, {runs} iterations; {about['processor']}, "
        f"{about['cores']} cores" + (f", {about['GPU']}" if about["GPU"] else "") + f".{other}\n\n"
    ) + table(header, lines)


def _measure(name: str, batch: int, crop: int, runs: int) -> dict[str, Any]:
    """Seconds of each iteration but the first, most bytes held, bytes by the estimate."""
    preset = get_preset(name)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        _write_inputs(preset, folder, crop)
        config = folder / "config.toml"
        text = CONFIG.format(preset=name, iterations=runs + 1, batch=batch, crop=crop)
        config.write_text(text, encoding="utf-8")
        settings = replace(load_config(config).stages[STAGE], batch=TRAINING_BATCH)
        guess = estimate(preset, STAGE, settings)
        print(f"trains {name}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "lpnsr.benchmarks.training", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "the process was killed").splitlines()[-1])
        with (folder / "out" / f"{STAGE}.csv").open(newline="", encoding="utf-8") as log:
            seconds = [float(row["seconds"]) for row in csv.DictReader(log)]
    return {
        "seconds": seconds[1:],
        "memory": int(done.stdout.splitlines()[-1]),
        "estimated": guess.states + guess.activations,
    }


def _write_inputs(preset: Preset, folder: Path, crop: int) -> None:
    """A picture to train on, and the networks that stay as they are."""
    side = preset.scale * crop
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    (folder / "photos").mkdir()
    Image.fromarray(pixels).save(folder / "photos" / "noise.png")
    chain = preset.build()
    with torch.no_grad():
        deterministic.fill(chain)
    for role, network in preset.networks.items():
        if role != STAGE:
            file = (folder / network.files[0]).with_suffix(".safetensors")
            save_file(chain.network(role).state_dict(), file)


def main(folder: Path) -> int:
    """Train, and print the most bytes that were held; of a GPU where there is one."""
    options = {
        "--config": folder / "config.toml",
        "--photos": folder / "photos",
        "--weights": folder,
        "--out": folder / "out",
    }
    code = cli.main([STAGE, *(str(word) for pair in options.items() for word in pair)])
    on_gpu = torch.cuda.is_available()
    print(torch.cuda.max_memory_reserved() if on_gpu else machine.peak_memory())
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
