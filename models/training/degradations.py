"""The two-stage degradations of Real-ESRGAN, seeded, on batches.

Source: Wang et al., Real-ESRGAN (2021); ranges as Yue et al., ResShift (2023), train with.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lpnsr.models.training.kernels import BlurRange, blur_kernel, choice, final_kernel, uniform

RESIZE_MODES = ("area", "bilinear", "bicubic")


@dataclass(frozen=True)
class StageRanges:
    """What one stage of degradation draws from.

    Attributes:
        blur: kernels.
        blur_share: how often there is a blur.
        resize_weights: how often the picture is enlarged, reduced, kept.
        resize: least and largest factor.
        gaussian: standard deviation of Gaussian noise, in 1/255.
        poisson: factor of Poisson noise.
        jpeg: quality.
    """

    blur: BlurRange
    blur_share: float
    resize_weights: tuple[float, float, float]
    resize: tuple[float, float]
    gaussian: tuple[float, float]
    poisson: tuple[float, float]
    jpeg: tuple[float, float]


@dataclass(frozen=True)
class Degradation:
    """The whole process; the defaults are the published ranges.

    Attributes:
        scale: how many times smaller the degraded picture is.
        first: the first stage.
        second: the second stage; its JPEG always comes.
        second_share: how often there is a second blur, resize and noise.
        gaussian_share: how often noise is Gaussian; else it is Poisson.
        grey_share: how often noise is the same in all channels.
        sinc_size: side of the final sinc kernel.
        sinc_share: how often there is a final sinc.
    """

    scale: int = 4
    first: StageRanges = field(
        default_factory=lambda: StageRanges(
            blur=BlurRange(21, (0.2, 3.0)),
            blur_share=1.0,
            resize_weights=(0.2, 0.7, 0.1),
            resize=(0.15, 1.5),
            gaussian=(1, 30),
            poisson=(0.05, 3),
            jpeg=(30, 95),
        )
    )
    second: StageRanges = field(
        default_factory=lambda: StageRanges(
            blur=BlurRange(15, (0.2, 1.5)),
            blur_share=0.8,
            resize_weights=(0.3, 0.4, 0.3),
            resize=(0.3, 1.2),
            gaussian=(1, 25),
            poisson=(0.05, 2.5),
            jpeg=(30, 95),
        )
    )
    second_share: float = 0.5
    gaussian_share: float = 0.5
    grey_share: float = 0.4
    sinc_size: int = 21
    sinc_share: float = 0.8

    @torch.no_grad()
    def __call__(self, pictures: Tensor, generator: Generator) -> Tensor:
        """Degrade a batch.

        A batch shares its sizes and the order of steps; kernels, noise and JPEG qualities are
        drawn for each picture.

        Args:
            pictures: (B, 3, H, W) in [0, 1], sides multiples of `scale`.
            generator: on the device of the pictures; the same state gives the same result.

        Returns:
            (B, 3, H/scale, W/scale) in [0, 1], multiples of 1/255.
        """
        size = pictures.shape[2], pictures.shape[3]
        height, width = (side // self.scale for side in size)
        x = self._blurred(pictures, self.first, generator)
        x = _resized(x, _random_size(size, self.first, generator), generator)
        x = self._noisy(x, self.first, generator)
        x = _jpeg(x, self.first.jpeg, generator)
        if uniform(0, 1, generator) < self.second_share:
            x = self._blurred(x, self.second, generator)
            x = _resized(x, _random_size((height, width), self.second, generator), generator)
            x = self._noisy(x, self.second, generator)
        if uniform(0, 1, generator) < 0.5:
            x = self._finished(x, (height, width), generator)
            x = _jpeg(x, self.second.jpeg, generator)
        else:
            x = _jpeg(x, self.second.jpeg, generator)
            x = self._finished(x, (height, width), generator)
        return (x.clamp(0, 1) * 255).round() / 255

    def _blurred(self, x: Tensor, stage: StageRanges, generator: Generator) -> Tensor:
        if uniform(0, 1, generator) >= stage.blur_share:
            return x
        return filtered(x, torch.stack([blur_kernel(stage.blur, generator) for _ in x]))

    def _finished(self, x: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
        x = _resized(x, size, generator)
        kernels = [final_kernel(self.sinc_size, self.sinc_share, generator) for _ in x]
        return filtered(x, torch.stack(kernels))

    def _noisy(self, x: Tensor, stage: StageRanges, generator: Generator) -> Tensor:
        gaussian = uniform(0, 1, generator) < self.gaussian_share
        grey = _draws(len(x), (0, 1), generator) < self.grey_share
        if gaussian:
            sigma = _draws(len(x), stage.gaussian, generator) / 255
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            noise = torch.where(grey, noise[:, :1], noise) * sigma
        else:
            clean = (x.clamp(0, 1) * 255).round() / 255
            grey_noise = _poisson_noise(_luma(clean), generator)
            noise = torch.where(grey, grey_noise, _poisson_noise(clean, generator))
            noise = noise * _draws(len(x), stage.poisson, generator)
        return (x + noise).clamp(0, 1)


def filtered(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Each picture with its own kernel, mirrored at the border.

    Args:
        pictures: (B, C, H, W).
        kernels: (B, k, k), k odd.

    Returns:
        (B, C, H, W).
    """
    batch, channels, height, width = pictures.shape
    reach = kernels.shape[-1] // 2
    kernels = kernels.to(pictures)
    if reach >= min(height, width):  # a mirror shows no more than the picture itself
        raise ValueError(f"pictures of {height}x{width} are too small for blur kernels")
    padded = F.pad(pictures, (reach,) * 4, mode="reflect")
    weights = kernels[:, None].repeat_interleave(channels, dim=0)
    planes = padded.reshape(1, batch * channels, *padded.shape[2:])
    return F.conv2d(planes, weights, groups=batch * channels).view_as(pictures)


def _random_size(
    base: tuple[int, int], stage: StageRanges, generator: Generator
) -> tuple[int, int]:
    low, high = stage.resize
    limits = ((1.0, high), (low, 1.0), (1.0, 1.0))[choice(stage.resize_weights, generator)]
    factor = uniform(*limits, generator)
    return int(base[0] * factor), int(base[1] * factor)


def _resized(x: Tensor, size: tuple[int, int], generator: Generator) -> Tensor:
    mode = RESIZE_MODES[choice((1.0, 1.0, 1.0), generator)]
    return F.interpolate(x, size, mode=mode)


def _poisson_noise(clean: Tensor, generator: Generator) -> Tensor:
    """Noise of counting as many photons as a picture has distinct values."""
    values = (clean * 255).round().long().flatten(1)
    counts = torch.tensor([int((v.bincount() > 0).sum()) for v in values], device=clean.device)
    photons = (2 ** counts.float().log2().ceil())[:, None, None, None]
    return torch.poisson(clean * photons, generator=generator) / photons - clean


def _luma(x: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=x.device)[:, None, None]
    return (x * weights).sum(dim=1, keepdim=True)


def _jpeg(x: Tensor, qualities: tuple[float, float], generator: Generator) -> Tensor:
    """Through a real JPEG codec, each picture with its own quality."""
    values = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    drawn = _draws(len(x), qualities, generator).flatten().tolist()
    coded = []
    for picture, quality in zip(values, drawn, strict=True):
        options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
        _, content = cv2.imencode(".jpg", picture[..., ::-1], options)
        coded.append(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR))[..., ::-1])
    return torch.from_numpy(np.stack(coded)).permute(0, 3, 1, 2).to(x) / 255


def _draws(count: int, limits: tuple[float, float], generator: Generator) -> Tensor:
    """One draw for each picture, (count, 1, 1, 1)."""
    low, high = limits
    drawn = torch.rand(count, 1, 1, 1, generator=generator, device=generator.device)
    return low + (high - low) * drawn


OLD_JPEG = Degradation(
    first=StageRanges(
        blur=BlurRange(11, (0.2, 1.2)),
        blur_share=0.4,
        resize_weights=(0.0, 0.0, 1.0),
        resize=(1.0, 1.0),
        gaussian=(0, 3),
        poisson=(0.0, 0.2),
        jpeg=(85, 100),
    ),
    second=StageRanges(
        blur=BlurRange(7, (0.2, 0.8)),
        blur_share=0.3,
        resize_weights=(0.0, 0.0, 1.0),
        resize=(1.0, 1.0),
        gaussian=(0, 3),
        poisson=(0.0, 0.2),
        jpeg=(25, 92),
    ),
    second_share=0.2,
    sinc_share=0.2,
)
"""A small picture as it was shared years ago: hardly blurred, saved as JPEG once or twice."""

PROCESSES = {"two-stage": Degradation(), "old-jpeg": OLD_JPEG}
