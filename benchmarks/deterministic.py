"""Networks with deterministic weights, for measurements that need no trained ones."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch

from lpnsr.models.chain import Chain


def fill(chain: Chain) -> None:
    """Give every parameter a value that depends on its name and shape alone.

    Kernels keep the variance of what passes through them, norms are near one and biases near zero,
    so that values stay in the range that trained networks have. Speed does not depend on values.
    """
    for name, parameter in chain.named_parameters():
        parameter.copy_(torch.from_numpy(_values(name, tuple(parameter.shape))))


def _values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode())))
    values = rng.standard_normal(shape, np.float32)
    if name.endswith("relative_position_bias_table"):
        return values * np.float32(0.5)
    if name.endswith("embedding.weight"):
        return values * np.float32(0.7)
    if len(shape) > 1:
        return values / np.float32(math.sqrt(math.prod(shape[1:])))
    if name.endswith("weight"):
        return 1 + np.float32(0.1) * values
    return np.float32(0.05) * values
