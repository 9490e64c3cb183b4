"""The procedure of LPNSR's authors in eager PyTorch, which speed-ups are counted from.

It differs from `lpnsr.models.chain` in needless work: the noise predictor is called at the
last step too, and whole pictures are padded to powers of two and cut into tiles that overlap by
half. The networks are ours. Source: the authors' `inference.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import cv2
import numpy as np
import torch
from torch import Tensor

from lpnsr.kernels.recurrence import PICTURE, Step, drive
from lpnsr.models.chain import Chain, Eager
from lpnsr.models.families import Stage
from lpnsr.runtime.pictures import color

PADDING, TILE, STRIDE = 64, 256, 128


def autocast(device: str) -> AbstractContextManager:
    """Half precision on a GPU, nothing elsewhere."""
    return torch.autocast("cuda") if device == "cuda" else nullcontext()


@torch.no_grad()
def sample(chain: Chain, lr: Tensor, noise: Tensor, **given: Tensor) -> Tensor:
    """Upscale like `Chain.forward`, with the calls that the authors make.

    Args:
        chain: the networks.
        lr: (B, 3, h, w) in [-1, 1].
        noise: (K, B, C, h, w).
        **given: what was made for the whole picture, by name; left out, it is made of `lr`.
    """
    start, *steps = chain.updates()
    predicts = chain.has("noise_predictor")
    executor = Procedure(chain, {"lr": lr, **given}, noise)
    stages = [stage for stage in chain.stages if not (given and stage.phase == PICTURE)]
    with autocast(lr.device.type):
        drive(stages, [start, *(replace(s, predicted=predicts) for s in steps)], executor)
    return executor.values["sr"].float()


class Procedure(Eager):
    """Computes a chain as the authors do: the pre-upsampler always in float32."""

    def call(self, stage: Stage, step: Step, number: int) -> None:
        """Call the networks of a stage."""
        precise = stage.name == "pre_upsampler"
        with torch.autocast("cuda", enabled=False) if precise else nullcontext():
            super().call(stage, step, number)


def padded_side(side: int) -> int:
    """The side that a picture's side is padded to, in pixels."""
    return 1 << (-(-side // PADDING) * PADDING - 1).bit_length()


def starts(side: int) -> list[int]:
    """First pixels of the tiles along a padded side."""
    if side <= TILE:
        return [0]
    return sorted({min(start, side - TILE) for start in range(0, side, STRIDE)})


def processed(size: tuple[int, int]) -> int:
    """Input pixels that the networks see of a picture of this (height, width)."""
    height, width = map(padded_side, size)
    if max(height, width) <= TILE:
        return height * width
    tiles = len(starts(height)) * len(starts(width))
    return tiles * min(height, TILE) * min(width, TILE)


def upscale(chain: Chain, picture: np.ndarray, seed: int = 0) -> np.ndarray:
    """Upscale a whole picture: pad, cut, upscale, blend, correct the colours.

    Args:
        chain: the networks.
        picture: uint8 (H, W, 3), RGB.
        seed: of the noise.

    Returns:
        uint8 (4H, 4W, 3).
    """
    height, width = picture.shape[:2]
    padding = [(0, padded_side(side) - side) for side in (height, width)]
    padded = np.pad(picture, [*padding, (0, 0)], mode="symmetric")
    signed = padded.astype(np.float32) / 127.5 - 1
    device = next(chain.parameters()).device
    lr = torch.from_numpy(signed).permute(2, 0, 1)[None].to(device)
    sr = _blended(chain, lr, torch.Generator().manual_seed(seed))
    corrected = color.correct(sr[0].permute(1, 2, 0).contiguous().float().cpu().numpy(), signed)
    scale = corrected.shape[0] // lr.shape[2]
    pixels = np.rint((corrected + 1) * 127.5).astype(np.uint8)
    return pixels[: scale * height, : scale * width]


def _blended(chain: Chain, lr: Tensor, generator: torch.Generator) -> Tensor:
    """Tiles weighted with a Gaussian, summed in float64."""
    total = weights = torch.zeros(())
    for top in starts(lr.shape[2]):
        for left in starts(lr.shape[3]):
            tile = lr[..., top : top + TILE, left : left + TILE]
            sr = sample(chain, tile, random_noise(chain, tile, generator)).double().cpu()
            scale = sr.shape[2] // tile.shape[2]
            if not total.ndim:
                shape = [scale * side for side in lr.shape[2:]]
                total, weights = torch.zeros(*sr.shape[:2], *shape).double(), torch.zeros(shape)
            region = (
                slice(scale * top, scale * top + sr.shape[2]),
                slice(scale * left, scale * left + sr.shape[3]),
            )
            weight = _gaussian(sr.shape[2])[:, None] * _gaussian(sr.shape[3])
            total[(..., *region)] += weight * sr
            weights[region] += weight
    return total / weights


def _gaussian(side: int) -> Tensor:
    """OpenCV's kernel of this width, with the standard deviation that it takes by default."""
    return torch.from_numpy(cv2.getGaussianKernel(side + 1 - side % 2, 0)[-side:, 0].copy())


def random_noise(chain: Chain, tile: Tensor, generator: torch.Generator) -> Tensor:
    """All draws that a chain makes for tiles (B, 3, h, w); empty if it makes none."""
    if not chain.schedule.draws:
        return tile.new_empty(0)
    channels = chain.denoiser.config.out_channels
    shape = chain.schedule.draws, len(tile), channels, *tile.shape[2:]
    return torch.randn(shape, generator=generator).to(tile.device)
