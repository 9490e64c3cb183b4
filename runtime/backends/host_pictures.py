"""Whole pictures on the host, which cuts and blends the tiles that an engine computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np

from lpnsr import kernels
from lpnsr.runtime.backends.base import ADVICE, NotFiniteError, PrecisionError, Task
from lpnsr.runtime.backends.session import Session
from lpnsr.runtime.bundle import Bundle, latent_shape
from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.pictures import color
from lpnsr.runtime.tiles import rows
from lpnsr.runtime.tiles.batches import Batches
from lpnsr.runtime.tiles.tiling import Tile

_BAND = 128
"""Most input rows that are colour-corrected at once, to keep the memory for it small."""

_COPIES, _CORRECTION = 4, 6
"""Output rows held at once, in heights of a tile and of a colour-corrected band."""


Result = np.ndarray | str
"""Of a tile: float32 (3, scale·h, scale·w); what may help where the values are not finite."""
Results = list[Result]


@dataclass(frozen=True)
class TileInput:
    """What a graph is given of one tile.

    Attributes:
        lr: float32 (3, h, w) in [-1, 1].
        noise: float32 (K, C, h', w'), with the sizes of a latent.
        given: what was made for the whole picture, by name (`Graph.given`), without the batch's
            axis.
    """

    lr: np.ndarray
    noise: np.ndarray
    given: Mapping[str, np.ndarray]


class HostSession(Session):
    """A graph in an engine that computes batches; the host cuts and blends the tiles.

    Args:
        bundle: of the graph.
        graph: what is loaded.
        lanes: batches that are computed at the same time, of one picture or of several.

    Attributes:
        batches: where the pictures of several threads share batches.
    """

    def __init__(self, bundle: Bundle, graph: Graph, lanes: int = 1) -> None:
        super().__init__(bundle, graph)
        self._lanes = lanes
        self._executor = ThreadPoolExecutor(lanes, "tiles") if lanes > 1 else None
        self.batches: Batches[TileInput, Result] = Batches(graph.batch)

    def side_by_side(
        self, groups: Iterable[Sequence[Tile]], upscale: Callable[[Sequence[Tile]], Results]
    ) -> Iterator[Results]:
        """What `upscale` makes of groups of tiles, in order; some are ahead of the others."""
        if self._executor is None:
            yield from map(upscale, groups)
            return
        ahead: deque[Future[Results]] = deque()
        try:
            for group in groups:
                ahead.append(self._executor.submit(upscale, group))
                if len(ahead) > self._lanes:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def run_precisely(self, lr: np.ndarray, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        """The same as `run` at the highest precision that the engine has.

        Called when `run` returns values that are not finite.

        Raises:
            PrecisionError: the engine has no higher precision; says what may help.
        """
        raise PrecisionError(ADVICE)

    def bands(self, task: Task) -> Generator[np.ndarray, None, None]:
        """Upscale a whole picture; see `Session.bands`."""
        return _bands(self, task)


def _bands(session: HostSession, task: Task) -> Generator[np.ndarray, None, None]:
    picture, size, scale = task.picture, task.picture.shape[:2], task.scale
    raw = rows.Rows(_blended(_upscaled(session, task), size, scale))
    step = _step(size[1])
    for top in range(0, size[0], step):
        bottom = min(top + step, size[0])
        # With the halo, the correction of a band equals that of the whole picture.
        halo = color.HALO if task.color_limit else 0
        above, below = max(top - halo, 0), min(bottom + halo, size[0])
        sr = raw.take(above * scale, below * scale)
        if task.color_limit:
            sr = color.correct(sr, _signed(picture[above:below]), task.color_limit)
        band = np.clip(sr[(top - above) * scale : (bottom - above) * scale], -1.0, 1.0)
        yield band if task.dtype == np.float32 else rows.quantize(band, task.dtype)


def memory(graph: Graph, size: tuple[int, int], scale: int) -> int:
    """Bytes that `HostSession.bands` needs at its peak for a picture of this (height, width)."""
    corrected = min(size[0], _step(size[1]) + 2 * color.HALO)
    held = _COPIES * graph.tile[0] + _CORRECTION * corrected
    return held * scale * scale * size[1] * 3 * 4


def _upscaled(session: HostSession, task: Task) -> Iterator[tuple[Tile, np.ndarray]]:
    """Each tile with its upscaled pixels (scale·h, scale·w, 3), in order.

    Pictures that other threads upscale meanwhile may share the batches.

    Raises:
        NotFiniteError: a tile's values are not finite.
    """
    given, compute = _given(session, task), partial(_compute, session)

    def upscale(group: Sequence[Tile]) -> Results:
        inputs = [TileInput(_lr(tile, task), _noise(session, tile, task), given) for tile in group]
        return session.batches.run(inputs, compute)

    done, groups = 0, _groups(task, session.graph.batch)
    for results in session.side_by_side(groups, upscale):
        first, done = done, done + len(results)
        task.report(done)
        for number, result in enumerate(results, first):
            if isinstance(result, str):
                raise NotFiniteError(number, result)
            yield task.tiles[number], result.transpose(1, 2, 0)


def _compute(session: HostSession, inputs: Sequence[TileInput]) -> Results:
    """Upscale one batch of tiles, or fewer.

    A tile's result does not depend on the others: if values are not finite, only what they belong
    to is taken from a computation at a higher precision.

    Returns:
        a result for each tile.
    """
    filled = [*inputs, *[inputs[-1]] * (session.graph.batch - len(inputs))]
    lr = np.stack([tile.lr for tile in filled])
    noise = np.stack([tile.noise for tile in filled], axis=1)
    given = {name: np.stack([tile.given[name] for tile in filled]) for name in session.graph.given}
    results: Results = [*session.run(lr, noise, **given)[: len(inputs)]]
    bad = [number for number, sr in enumerate(results) if not np.isfinite(sr).all()]
    if not bad:
        return results
    try:
        precise = session.run_precisely(lr, noise, **given)
    except PrecisionError as error:
        return [str(error) if number in bad else sr for number, sr in enumerate(results)]
    for number in bad:
        results[number] = precise[number] if np.isfinite(precise[number]).all() else ADVICE
    return results


def _groups(task: Task, batch: int) -> Iterator[Sequence[Tile]]:
    """The picture's tiles batch by batch."""
    for first in range(0, len(task.tiles), batch):
        yield task.tiles[first : first + batch]


def _given(session: HostSession, task: Task) -> dict[str, np.ndarray]:
    """What the graph takes of the whole picture: the mean of what its tiles give."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in session.graph.given}
    batch = session.graph.batch
    for group in _groups(task, batch) if found else ():
        cuts = [_lr(tile, task) for tile in group]
        lr = np.stack([*cuts, *[cuts[-1]] * (batch - len(cuts))])
        for name, values in session.estimate(lr).items():
            found[name] += [*values[: len(group)]]
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def _lr(tile: Tile, task: Task) -> np.ndarray:
    """The tile's pixels, float32 (3, h, w) in [-1, 1]."""
    return _signed(tile.cut(task.picture)).transpose(2, 0, 1)


def _noise(session: HostSession, tile: Tile, task: Task) -> np.ndarray:
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
