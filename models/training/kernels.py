"""Blur kernels of the Real-ESRGAN degradations.

Source: Wang et al., Real-ESRGAN (2021), section 3 and its supplement; the kernel families and their
probabilities are the published ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

SHAPES = ("gaussian", "generalized", "plateau")
SHAPE_WEIGHTS = (0.7, 0.15, 0.15)
ISOTROPIC_SHARE = (0.45 / 0.7, 0.8, 0.8)
SINC_SHARE = 0.1
EXPONENTS = {"gaussian": (1.0, 1.0), "generalized": (0.5, 4.0), "plateau": (1.0, 2.0)}


@dataclass(frozen=True)
class BlurRange:
    """What blur kernels are drawn from.

    Attributes:
        size: side of the kernel tensor; smaller odd kernels from 7 on lie in its middle.
        sigma: range of the standard deviations in pixels.
    """

    size: int
    sigma: tuple[float, float]


def uniform(low: float, high: float, generator: Generator) -> float:
    """One draw from [low, high)."""
    return low + (high - low) * torch.rand((), generator=generator, device=generator.device).item()


def choice(weights: tuple[float, ...], generator: Generator) -> int:
    """An index drawn with the given weights."""
    shares = torch.tensor(weights, device=generator.device)
    return int(torch.multinomial(shares, 1, generator=generator))


def blur_kernel(blur: BlurRange, generator: Generator) -> Tensor:
    """A random blur kernel, (size, size) float32 that sums to 1."""
    size = _odd_size(blur.size, generator)
    if uniform(0, 1, generator) < SINC_SHARE:
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        kernel = sinc_kernel(size, uniform(lowest, math.pi, generator))
    else:
        kernel = _bell(size, blur.sigma, generator)
    return _centred(kernel, blur.size)


def final_kernel(size: int, share: float, generator: Generator) -> Tensor:
    """A random sinc kernel with probability `share`, else the unit pulse; (size, size)."""
    if uniform(0, 1, generator) < share:
        cutoff = uniform(math.pi / 3, math.pi, generator)
        return _centred(sinc_kernel(_odd_size(size, generator), cutoff), size)
    return _centred(torch.ones(1, 1), size)


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Circular low-pass filter, which rings like sharpening does; (size, size), sums to 1.

    Args:
        size: odd side.
        cutoff: angular frequency in (0, π].
    """
    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    radius = torch.hypot(offsets[:, None], offsets[None])
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return (kernel / kernel.sum()).float()


def _bell(size: int, sigmas: tuple[float, float], generator: Generator) -> Tensor:
    """A Gaussian, generalised Gaussian or plateau, isotropic or not."""
    index = choice(SHAPE_WEIGHTS, generator)
    shape = SHAPES[index]
    first = second = uniform(*sigmas, generator)
    angle = 0.0
    if uniform(0, 1, generator) > ISOTROPIC_SHARE[index]:
        second, angle = uniform(*sigmas, generator), uniform(-math.pi, math.pi, generator)
    low, high = EXPONENTS[shape]
    # Half of the exponents lie below 1, although most of the range lies above.
    below = low < 1 and uniform(0, 1, generator) < 0.5
    exponent = uniform(low, 1, generator) if below else uniform(1, high, generator)

    offsets = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = offsets[:, None], offsets[None]
    along = (x * math.cos(angle) + y * math.sin(angle)) / first
    across = (y * math.cos(angle) - x * math.sin(angle)) / second
    distance = (along**2 + across**2) ** exponent
    kernel = 1 / (1 + distance) if shape == "plateau" else torch.exp(-distance / 2)
    return (kernel / kernel.sum()).float()


def _odd_size(largest: int, generator: Generator) -> int:
    sizes = range(7, largest + 1, 2)
    return sizes[choice((1.0,) * len(sizes), generator)]


def _centred(kernel: Tensor, size: int) -> Tensor:
    margin = (size - len(kernel)) // 2
    return torch.nn.functional.pad(kernel, (margin,) * 4)
