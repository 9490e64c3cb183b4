"""What the noise predictor is worth: chains of T = 1 … 4 steps with three kinds of noise.

The chains differ only in the noise of their steps: predicted, Gaussian, or none. They start from
the same noise, and the last step uses none, so a chain of one step is the same in all three. The
networks run in PyTorch without tiles; colours are corrected as in the runtime.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from lpnsr.benchmarks import samples
from lpnsr.benchmarks.markdown import table
from lpnsr.benchmarks.metrics import compare
from lpnsr.models.chain import Chain
from lpnsr.models.color_fix import correct
from lpnsr.models.presets import Preset, get_preset
from lpnsr.models.roles import NOISE_KINDS
from lpnsr.models.weights import find_weights, load_chain

CELL = "{:.3f} dB, {:.4f}, {:.1%}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `lpnsr-bench noise`."""
    add = parser.add_argument
    add("inputs", type=Path, nargs="+", metavar="INPUT", help="photographs or folders of pairs")
    add("--reduce", action="store_true", help="the pictures are originals: reduce them first")
    add("--preset", default="lpnsr-tiny", help="default: %(default)s")
    add("--weights", type=Path, metavar="DIR", help="default: those of the package")
    add("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Print mean PSNR-Y, SSIM-Y and sharpness for each length of the chain and kind of noise."""
    preset = get_preset(args.preset)
    if "noise_predictor" not in preset.networks:
        raise ValueError(f"{preset.name} has no noise predictor")
    chain = load_chain(preset, find_weights(preset, args.weights))
    found = samples.find(args.inputs, args.reduce)
    lengths = range(1, preset.schedule.steps + 1)
    quality: dict[tuple[int, str], list[tuple[float, ...]]] = {
        (steps, kind): [] for steps in lengths for kind in NOISE_KINDS
    }
    for sample in tqdm(found, unit="picture", disable=None):
        small, original = sample.load(preset.scale)
        if original is None:
            raise samples.SampleError(f"{sample.file} has no original to compare with; --reduce?")
        for (steps, kind), measured in quality.items():
            upscaled = upscale(preset, chain, small, steps, kind, args.seed)
            measured.append(astuple(compare(upscaled, original)))
    header = [f"T, {len(found)} pictures", *(f"{kind} noise" for kind in NOISE_KINDS)]
    lines = [
        [str(steps), *(_cell(quality[steps, kind]) for kind in NOISE_KINDS)] for steps in lengths
    ]
    print(table(header, lines))
    return 0


@torch.no_grad()
def upscale(
    preset: Preset, chain: Chain, small: np.ndarray, steps: int, kind: str, seed: int = 0
) -> np.ndarray:
    """Upscale a uint8 (H, W, 3) picture with the last `steps` steps of a chain.

    Args:
        preset: whose chain it is.
        chain: with a noise predictor.
        small: the picture.
        steps: length of the chain.
        kind: one of `NOISE_KINDS`.
        seed: of the noise.
    """
    height, width = small.shape[:2]
    padding = ((0, -height % preset.multiple), (0, -width % preset.multiple), (0, 0))
    padded = torch.from_numpy(np.pad(small, padding, mode="symmetric"))
    lr = padded.permute(2, 0, 1)[None].float() / 127.5 - 1
    chain = chain.replaced(schedule=chain.schedule.truncated(steps))
    if kind != "predicted":
        chain = chain.replaced(noise_predictor=None)
    y = chain.encode(lr)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(chain.schedule.draws, *y.shape, generator=generator)
    if kind == "zero":
        noise[1:] = 0
    decoded = chain.codec.decode(chain.reverse(y, lr, noise)).clamp(-1, 1)
    upscaled = _picture(correct(decoded, lr, preset.color_limit))
    scale = upscaled.shape[0] // lr.shape[2]
    return upscaled[: scale * height, : scale * width]


def _cell(measured: Sequence[tuple[float, ...]]) -> str:
    """The means of what was measured."""
    return CELL.format(*np.mean(measured, axis=0))


def _picture(sr: Tensor) -> np.ndarray:
    return ((sr[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
