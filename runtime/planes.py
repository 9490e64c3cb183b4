"""A picture of any channels and any smaller size, out of a model for RGB of one scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from lpnsr.runtime.pictures import alpha
from lpnsr.runtime.tiles.rows import Rows, downscale, quantize

Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of tiles in all."""


@dataclass(frozen=True)
class RgbModel:
    """A model for RGB pictures.

    Attributes:
        bands: upscales uint8 or uint16 (H, W, 3); takes `progress` and the `dtype` of the bands
            (n, scale·W, 3) that it yields, top to bottom, as `Upscaler.bands` does.
        scale: factor between the sides of input and output.
    """

    bands: Callable[..., Iterator[np.ndarray]]
    scale: int


def scaled(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """A (height, width) times a factor, rounded to whole pixels, at least one."""
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def upscale(
    model: RgbModel,
    pixels: np.ndarray,
    target: tuple[int, int],
    dtype: np.dtype,
    *,
    opaque: bool = False,
    by_model: bool = False,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """Upscale a picture, band by band.

    Args:
        model: for RGB; grey is given to it as RGB, and its result averaged.
        pixels: uint8 or uint16 (H, W, C); C is 1 for grey, 2 for grey and alpha, 3 for RGB, 4 for
            RGB and alpha.
        target: (height, width) of the output, at most that of the model.
        dtype: of the output: uint8, uint16, or float32 in [-1, 1].
        opaque: compose with white instead of keeping alpha.
        by_model: enlarge alpha by the model instead of bicubic interpolation.
        progress: called as the model's bands call it.

    Yields:
        `dtype` (n, W, C) or, if composed, (n, W, C - 1); the bands together are the output, top to
        bottom.
    """
    full = pixels.shape[0] * model.scale, pixels.shape[1] * model.scale
    if pixels.shape[2] == 3 and target == full:
        yield from model.bands(pixels, progress=progress, dtype=dtype)
        return
    bands = _channels(model, pixels, by_model, progress)
    if opaque:
        bands = (_on_white(band) for band in bands)
    if target != full:
        bands = downscale(bands, full, target)
    for band in bands:
        yield np.clip(band, -1.0, 1.0) if dtype == np.float32 else quantize(band, dtype)


def _channels(
    model: RgbModel, pixels: np.ndarray, by_model: bool, progress: Progress | None
) -> Iterator[np.ndarray]:
    """The picture at the model's scale, float32 (n, scale·W, C) in [-1, 1]."""
    if pixels.shape[2] in (1, 3):
        yield from _colors(model, pixels, progress)
        return
    opacity = pixels[..., -1]
    bands = _colors(model, alpha.fill_hidden(pixels[..., :-1], opacity), progress)
    if by_model:
        large = Rows(_colors(model, opacity[..., None]))
    else:
        large = Rows(alpha.bicubic(opacity, model.scale))
    top = 0
    for band in bands:
        plane = np.clip(large.take(top, top + len(band)), -1.0, 1.0)
        yield np.concatenate([band, plane], axis=2)
        top += len(band)


def _colors(
    model: RgbModel, pixels: np.ndarray, progress: Progress | None = None
) -> Iterator[np.ndarray]:
    """RGB (H, W, 3), or one plane (H, W, 1) as grey, at the model's scale in float32."""
    grey = pixels.shape[2] == 1
    given = pixels.repeat(3, axis=2) if grey else pixels
    for band in model.bands(given, progress=progress, dtype=np.float32):
        yield band.mean(axis=2, keepdims=True) if grey else band


def _on_white(band: np.ndarray) -> np.ndarray:
    """Compose colours and alpha, the last channel, in [-1, 1] with white."""
    opacity = (band[..., -1:] + 1) / 2
    return band[..., :-1] * opacity + (1 - opacity)
