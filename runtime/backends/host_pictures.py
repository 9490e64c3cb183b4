"""Whole pictures on the host, which cuts and blends the tiles that an engine computes."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lpnsr import kernels
from lpnsr.runtime.backends.base import ADVICE, NotFiniteError, PrecisionError, Task
from lpnsr.runtime.bundle import latent_shape
from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.pictures import color
from lpnsr.runtime.tiles import rows
from lpnsr.runtime.tiles.tiling import Tile

if TYPE_CHECKING:
    from lpnsr.runtime.backends.session import Session

_BAND = 128
"""Most input rows that are colour-corrected at once, to keep the memory for it small."""

_COPIES, _CORRECTION = 4, 6
"""Output rows held at once, in heights of a tile and of a colour-corrected band."""


def bands(session: Session, task: Task) -> Generator[np.ndarray, None, None]:
    """Upscale a picture; see `lpnsr.runtime.backends.session.Session.bands`."""
    picture, size, scale = task.picture, task.picture.shape[:2], task.scale
    raw = rows.Rows(_blended(_upscaled(session, task), size, scale))
    step = _step(size[1])
    for top in range(0, size[0], step):
        bottom = min(top + step, size[0])
        # With the halo, the correction of a band equals that of the whole picture.
        halo = color.HALO if task.color_fix else 0
        above, below = max(top - halo, 0), min(bottom + halo, size[0])
        sr = raw.take(above * scale, below * scale)
        if task.color_fix:
            sr = color.correct(sr, _signed(picture[above:below]))
        band = np.clip(sr[(top - above) * scale : (bottom - above) * scale], -1.0, 1.0)
        yield band if task.dtype == np.float32 else rows.quantize(band, task.dtype)


def memory(graph: Graph, size: tuple[int, int], scale: int) -> int:
    """Bytes that `bands` needs at its peak for a picture of this (height, width)."""
    corrected = min(size[0], _step(size[1]) + 2 * color.HALO)
    held = _COPIES * graph.tile[0] + _CORRECTION * corrected
    return held * scale * scale * size[1] * 3 * 4


def _upscaled(session: Session, task: Task) -> Iterator[tuple[Tile, np.ndarray]]:
    """Each tile with its upscaled pixels (scale·h, scale·w, 3), computed batch by batch."""
    given, done = _given(session, task), 0
    for group, filled, lr in _batches(task, session.graph.batch):
        noise = np.stack([_noise(session, tile, task) for tile in filled], axis=1)
        sr = _finite(session, lr, noise, given, done)
        done += len(group)
        task.report(done)
        for tile, upscaled in zip(group, sr, strict=False):  # the rest fill the batch
            yield tile, upscaled.transpose(1, 2, 0)


def _batches(task: Task, batch: int) -> Iterator[tuple[Sequence[Tile], Sequence[Tile], np.ndarray]]:
    """The picture's tiles batch by batch.

    Yields:
        tiles, the same with the last repeated to fill the batch, and their pixels (B, 3, h, w).
    """
    for first in range(0, len(task.tiles), batch):
        group = task.tiles[first : first + batch]
        filled = [group[min(i, len(group) - 1)] for i in range(batch)]
        cuts = [_signed(tile.cut(task.picture)) for tile in filled]
        yield group, filled, np.stack([cut.transpose(2, 0, 1) for cut in cuts])


def _given(session: Session, task: Task) -> dict[str, np.ndarray]:
    """What the graph wants to know of the whole picture: the mean of what its tiles give."""
    if not session.graph.given:
        return {}
    batch = session.graph.batch
    found: dict[str, list[np.ndarray]] = {name: [] for name in session.graph.given}
    for group, _, lr in _batches(task, batch):
        for name, values in session.estimate(lr).items():
            found[name] += [*values[: len(group)]]
    return {name: np.stack([np.mean(values, axis=0)] * batch) for name, values in found.items()}


def _finite(
    session: Session,
    lr: np.ndarray,
    noise: np.ndarray,
    given: Mapping[str, np.ndarray],
    first: int,
) -> np.ndarray:
    """The upscaled batch; if a value is not finite, computed again at a higher precision.

    Raises:
        NotFiniteError: a value still is not; `first` is the number of the batch's first tile.
    """
    sr = session.run(lr, noise, **given)
    if np.isfinite(sr).all():
        return sr
    advice = ADVICE
    try:
        sr = session.run_precisely(lr, noise, **given)
    except PrecisionError as error:
        advice = str(error)
    for number, upscaled in enumerate(sr, first):
        if not np.isfinite(upscaled).all():
            raise NotFiniteError(number, advice)
    return sr


def _noise(session: Session, tile: Tile, task: Task) -> np.ndarray:
    """The tile's window (K, C, h', w') of the picture's noise."""
    manifest = session.manifest
    _, channels, *size = latent_shape(manifest, session.graph)
    out = np.zeros((manifest.draws, channels, *size), dtype=np.float32)
    corner = [int(manifest.latent_side * span.start) for span in (tile.rows, tile.columns)]
    draws = min(task.draws, manifest.draws)
    out[:draws] = kernels.normals(task.seed, draws, channels, *corner, *size)
    return out


def _step(width: int) -> int:
    """Input rows that are colour-corrected at once; fewer where they are long."""
    return max(_BAND // 4, min(_BAND, 2**18 // width))


def _blended(
    upscaled: Iterable[tuple[Tile, np.ndarray]], size: tuple[int, int], scale: int
) -> Iterator[np.ndarray]:
    """Blend tiles that come row by row; yields the output's rows once no later tile reaches them.

    Yields:
        float32 (n, scale·W, 3).
    """
    canvas, start = np.zeros((0, scale * size[1], 3), dtype=np.float32), 0
    for tile, pixels in upscaled:
        finished = (tile.rows.start - start) * scale
        if finished or not len(canvas):
            yield canvas[:finished]
            fresh = np.zeros((len(tile.rows.weight), *canvas.shape[1:]), dtype=np.float32)
            fresh[: len(canvas) - finished] = canvas[finished:]
            canvas, start = fresh, tile.rows.start
        tile.blend(pixels, canvas, scale)
    yield canvas


def _signed(pixels: np.ndarray) -> np.ndarray:
    """Map the range of uint8 or uint16 to float32 -1..1."""
    half = np.float32(np.iinfo(pixels.dtype).max / 2)
    return pixels.astype(np.float32) / half - np.float32(1.0)
