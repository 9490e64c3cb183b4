"""The fused reverse step and its noise in NumPy: the definition that the compiled faces follow.

Standard normal noise is a pure function of seed, draw, channel and position in the picture. It is
counter-based (Philox4x32-10), so a tile's noise does not depend on the tile's size, on the other
tiles, or on the order in which they are computed. Any implementation, in any language, that follows
the docstrings of this file draws the same noise up to the last bits of its logarithm and cosine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lpnsr.kernels.recurrence import Step

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)

Words = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def key(seed: int) -> tuple[int, int]:
    """The generator's two key words, lower half of the seed first.

    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed {seed} is not between 0 and 2**64 - 1")
    return seed & 0xFFFFFFFF, seed >> 32


def philox4x32(counter: Sequence[np.ndarray | int], key: tuple[int, int]) -> Words:
    """The Philox4x32-10 bijection of Salmon et al. (2011), the one of Random123 and cuRAND.

    Args:
        counter: four words below 2**32, each an integer or an array; they broadcast together.
        key: two words below 2**32.

    Returns:
        Four uint32 arrays of the broadcast shape.
    """
    # 32-bit words live in 64-bit lanes, where the product of two of them is exact.
    a, b, c, d = (np.asarray(word, dtype=np.uint64) for word in counter)
    key_a, key_b = key
    for _ in range(10):
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b = (q >> _HALF) ^ b ^ np.uint64(key_a), q & _LOW
        c, d = (p >> _HALF) ^ d ^ np.uint64(key_b), p & _LOW
        key_a, key_b = (key_a + _WEYL[0]) & 0xFFFFFFFF, (key_b + _WEYL[1]) & 0xFFFFFFFF
    w, x, y, z = (word.astype(np.uint32) for word in np.broadcast_arrays(a, b, c, d))
    return w, x, y, z


def normals(
    seed: int,
    draws: range,
    channels: int,
    top: int,
    left: int,
    height: int,
    width: int,
) -> np.ndarray:
    """Noise of one window of the latent plane.

    For draw k, channels 4q to 4q+3, row y and column x of the whole picture's latent, let
    `(w0, w1, w2, w3) = philox4x32((x, y, q, k), (seed mod 2**32, seed div 2**32))` and
    `u_i = (w_i + 0.5) / 2**32`, which is never 0 or 1. By Box-Muller the four channels are

        r * cos(a), r * sin(a)   with r = sqrt(-2 ln u_0), a = 2 pi u_1   (channels 4q, 4q+1)
        r * cos(a), r * sin(a)   with r = sqrt(-2 ln u_2), a = 2 pi u_3   (channels 4q+2, 4q+3)

    in double precision, rounded to float32. Surplus channels of the last q are dropped.

    Args:
        seed: 0 to 2**64 - 1.
        draws: numbers of the K draws.
        channels: number C of latent channels.
        top: row of the window's first value in the whole picture's latent.
        left: its column.
        height: rows of the window.
        width: columns of the window.

    Returns:
        float32 array (K, C, height, width).

    Raises:
        ValueError: the seed is out of range.
    """
    quads = -(-channels // 4)
    k, q, y, x = np.ogrid[draws.start : draws.stop, :quads, top : top + height, left : left + width]
    words = philox4x32((x, y, q, k), key(seed))
    out = np.empty((len(draws), quads, 4, height, width), dtype=np.float32)
    for first in (0, 2):
        radius = np.sqrt(-2.0 * np.log((words[first] + 0.5) * 2.0**-32))
        angle = (words[first + 1] + 0.5) * (2.0 * np.pi * 2.0**-32)
        out[:, :, first] = radius * np.cos(angle)
        out[:, :, first + 1] = radius * np.sin(angle)
    return out.reshape(len(draws), 4 * quads, height, width)[:, :channels]


def update(
    step: Step,
    tensors: Mapping[str, np.ndarray | None],
    draw: int,
    origins: np.ndarray | None,
    out: np.ndarray,
    scaled: np.ndarray | None,
    threads: int,
) -> None:
    """One reverse step, `lpnsr.kernels.residual_shift` with checked arguments.

    Args:
        step: the factors.
        tensors: x, x0, y, mean, logvar, weight and eps, float32 (B, C, h, w); any may be missing.
        draw: which of the noise draws to make.
        origins: uint32 (B, 4) to make the noise; None to read it.
        out: receives the new state.
        scaled: receives the same times the next scale, if asked for.
        threads: CPU threads at most, 0 for all; NumPy decides itself.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if origins is not None:
        given["eps"] = np.concatenate([_draw(draw, place, out.shape[1:]) for place in origins])
    noise = np.exp(given.get("logvar", 0) / np.float32(2)) * given.get("eps", 0)
    noise = given.get("weight", 1) * (given.get("mean", 0) + noise)
    terms = [(step.state, "x"), (step.prediction, "x0"), (step.start, "y")]
    shifted = sum(np.float32(factor) * given[name] for factor, name in terms if name in given)
    out[...] = shifted + np.float32(step.noise) * noise
    if scaled is not None:
        np.multiply(out, np.float32(step.next_scale), out=scaled)


def _draw(draw: int, origin: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Noise of one batch item, (1, C, h, w), whose origin is (row, column, seed words)."""
    row, column, low, high = (int(word) for word in origin)
    channels, height, width = shape
    seed = low | high << 32
    return normals(seed, range(draw, draw + 1), channels, row, column, height, width)
