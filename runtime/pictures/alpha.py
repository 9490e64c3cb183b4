"""Transparency is upscaled on its own, and what it hides must not show."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

_HALO = 2
"""Input pixels around a band that bicubic interpolation looks at."""

_BAND = 128
"""Input rows that are enlarged at once."""


def fill_hidden(colors: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Give every fully transparent pixel the colour of the nearest pixel that can be seen.

    Image editors leave arbitrary colours, mostly black, under full transparency; enlarging would
    mix them into the visible edge.

    Args:
        colors: uint8 or uint16 (H, W, C).
        alpha: the same type (H, W), 0 where transparent.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colors
    _, labels = cv2.distanceTransformWithLabels(
        hidden.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    palette = np.zeros((labels.max() + 1, colors.shape[2]), dtype=colors.dtype)
    palette[labels[~hidden]] = colors[~hidden]
    filled = colors.copy()
    filled[hidden] = palette[labels[hidden]]
    return filled


def bicubic(alpha: np.ndarray, scale: int) -> Iterator[np.ndarray]:
    """Enlarge a plane by bicubic interpolation, band by band.

    Args:
        alpha: uint8 or uint16 (H, W).
        scale: factor between the sides of input and output.

    Yields:
        float32 (n, scale·W, 1), -1 for transparent to 1 for opaque; it overshoots at edges.
    """
    height, width = alpha.shape
    half = np.float32(np.iinfo(alpha.dtype).max / 2)
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        above, below = max(top - _HALO, 0), min(bottom + _HALO, height)
        part = alpha[above:below].astype(np.float32) / half - np.float32(1.0)
        size = (scale * width, scale * (below - above))
        large = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)
        yield large[scale * (top - above) : scale * (bottom - above), :, None]
