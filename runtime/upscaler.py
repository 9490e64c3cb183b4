"""A bundle and a picture in, a picture four times the size out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from lpnsr import kernels
from lpnsr.runtime import backends
from lpnsr.runtime.backends.base import ADVICE, Backend, NotFiniteError, PrecisionError, Task
from lpnsr.runtime.bundle import BUILTIN, Bundle, BundleError, Graph
from lpnsr.runtime.pictures import color
from lpnsr.runtime.tiles import layout, rows, tiling

_BAND = 128
"""Most input rows that are colour-corrected at once, to keep the memory for it small."""

_COPIES, _CORRECTION = 4, 6
"""Output rows held at once, in heights of a tile and of a colour-corrected band."""

Progress = Callable[[int, int], None]
"""Called with the number of tiles done and of tiles in all."""


class UpscaleError(RuntimeError):
    """The model's output for a picture is unusable."""


class Upscaler:
    """Upscales pictures of any size with the model of one bundle.

    Args:
        bundle: the opened bundle.
        backend: the engine that runs its graphs.
        graphs: those of the bundle's graphs that may be used.
        overlap: input pixels that neighbouring tiles share at least; by default as in
            `lpnsr.runtime.tiles.layout.choose`.

    Attributes:
        choice: the engine that was chosen, and why.

    Raises:
        TilingError: the overlap does not suit one of the graphs' tiles.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: Backend,
        graphs: Sequence[Graph],
        overlap: int | None = None,
    ) -> None:
        for graph in graphs:
            tiling.check(graph.tile, overlap or 0)
        self.bundle = bundle
        self.backend = backend
        self.choice = backend.describe()
        self._graphs = graphs
        self._overlap = overlap
        self._graph = self._loaded = None

    @classmethod
    def from_bundle(
        cls,
        path: str | Path = BUILTIN,
        *,
        backend: str = "auto",
        tile: tuple[int, int] | None = None,
        batch: int | None = None,
        overlap: int | None = None,
        threads: int | None = None,
        precision: str = "auto",
    ) -> Upscaler:
        """Open a bundle.

        Args:
            path: the bundle's folder; the built-in model by default.
            backend: inference engine, one of `lpnsr.runtime.backends.NAMES`.
            tile: (height, width) of the tiles in input pixels; by default, for each picture, those
                of the bundle's with which the fewest pixels are processed.
            batch: tiles to run at once; by default the smallest number that the bundle has.
            overlap: input pixels that neighbouring tiles share at least; by default 8 or 16, what
                costs less (see `lpnsr.runtime.tiles.layout.choose`).
            threads: CPU threads; by default the engine decides.
            precision: what the engine computes in, one of `lpnsr.runtime.backends.PRECISIONS`;
                "auto" is the fastest in which the model was found accurate at export.

        Raises:
            BundleError: the bundle is missing or damaged, or has no graph of this tile and batch.
            BackendError: the engine is unknown or not installed.
            TilingError: the overlap does not suit the tile.
        """
        bundle = Bundle.open(path)
        graphs = matching(bundle.manifest.graphs, tile, batch)
        accurate = set.intersection(*(set(graph.precisions) for graph in graphs))
        engine, why = backends.create(backend, threads, precision, accurate, bundle, graphs)
        upscaler = cls(bundle, engine, graphs, overlap)
        upscaler.choice = f"{engine.describe()} ({why})"
        return upscaler

    def upscale(
        self,
        picture: np.ndarray,
        *,
        seed: int = 0,
        deterministic: bool = False,
        color_fix: bool = True,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Upscale one picture.

        The result depends on the arguments, the model, the tile and the overlap, not on the batch
        or on other pictures.

        Args:
            picture: uint8 or uint16 (H, W, 3), RGB.
            seed: 0 to 2**64 - 1; another seed gives another, equally plausible picture.
            deterministic: use the mean of the predicted noise in every step. The noise that starts
                the chain still comes from the seed.
            color_fix: take the large-scale colours from `picture`.
            progress: called before the first batch of tiles and after each.

        Returns:
            The same type (scale·H, scale·W, 3), RGB.

        Raises:
            ValueError: `picture` is not of this type and shape, or the seed is out of range.
            UpscaleError: the model returns values that are not finite.
            BackendError: the engine fails.
            BundleError: the graph is not what the bundle's manifest says.
            MemoryError: memory does not suffice; `shrink` may help.
        """
        height, width = picture.shape[:2]
        scale = self.bundle.manifest.scale
        result = np.empty((scale * height, scale * width, 3), dtype=picture.dtype)
        done = 0
        for band in self.bands(
            picture,
            seed=seed,
            deterministic=deterministic,
            color_fix=color_fix,
            dtype=picture.dtype,
            progress=progress,
        ):
            result[done : done + len(band)] = band
            done += len(band)
        return result

    def bands(
        self,
        picture: np.ndarray,
        *,
        seed: int = 0,
        deterministic: bool = False,
        color_fix: bool = True,
        dtype: np.dtype | type = np.float32,
        progress: Progress | None = None,
    ) -> Iterator[np.ndarray]:
        """Upscale one picture band by band, so that the whole output is never in memory.

        Args and errors are those of `upscale`, but for `dtype`: that of the result, float32, or
        uint8 or uint16, where -1 becomes 0 and 1 the largest value.

        Yields:
            `dtype` (n, scale·W, 3), float32 in [-1, 1]; the bands together are the output, top to
            bottom.
        """
        _check(picture)
        size, manifest = picture.shape[:2], self.bundle.manifest
        chosen = layout.choose(self._graphs, size, self._overlap)
        graph = self._graph = chosen.graph
        self._load(graph)
        tiles = tiling.plan(size, graph.tile, chosen.overlaps, manifest.scale)
        report = progress or (lambda done, total: None)
        report(0, len(tiles))
        draws = 1 if deterministic else manifest.draws
        task = Task(
            picture,
            tiles,
            manifest.scale,
            seed,
            draws,
            color_fix,
            np.dtype(dtype),
            lambda done: report(done, len(tiles)),
        )
        bands = self.backend.bands(task)
        if bands is None:
            yield from self._bands(task, graph)
            return
        try:
            yield from bands
        except NotFiniteError as error:
            raise _not_finite(tiles[error.number], error.advice) from error

    def _bands(self, task: Task, graph: Graph) -> Iterator[np.ndarray]:
        """What `bands` yields, where the engine computes tiles alone."""
        picture, size, scale = task.picture, task.picture.shape[:2], task.scale
        raw = rows.Rows(_blended(self._upscaled(task, graph), size, scale))
        step = _step(size[1])
        for top in range(0, size[0], step):
            bottom = min(top + step, size[0])
            # The halo makes the band's correction equal to that of the whole picture.
            halo = color.HALO if task.color_fix else 0
            above, below = max(top - halo, 0), min(bottom + halo, size[0])
            sr = raw.take(above * scale, below * scale)
            if task.color_fix:
                sr = color.correct(sr, _signed(picture[above:below]))
            band = np.clip(sr[(top - above) * scale : (bottom - above) * scale], -1.0, 1.0)
            yield band if task.dtype == np.float32 else rows.quantize(band, task.dtype)

    def memory(self, size: tuple[int, int]) -> int:
        """Bytes that `bands` needs at its peak for a picture of this (height, width)."""
        graph = layout.choose(self._graphs, size, self._overlap).graph
        scale = self.bundle.manifest.scale
        corrected = min(size[0], _step(size[1]) + 2 * color.HALO)
        held = _COPIES * graph.tile[0] + _CORRECTION * corrected
        return held * scale * scale * size[1] * 3 * 4

    def shrink(self) -> str:
        """After memory has run out: use a smaller batch from now on, or else a smaller tile.

        Returns:
            What is used now.

        Raises:
            MemoryError: the bundle has nothing smaller.
        """
        used = self._graph
        smaller = [
            graph for graph in self.bundle.manifest.graphs if used and self._is_half(graph, used)
        ]
        if not smaller:
            raise MemoryError("not enough memory; crop or split the picture")
        following = max(smaller, key=lambda graph: (graph.tile[0] * graph.tile[1], graph.batch))
        self._graphs = [graph for graph in smaller if graph.batch <= following.batch]
        self._loaded = None
        return (
            f"memory has run out with tile {_name(used)}; "
            f"going on with at most tile {_name(following)}"
        )

    def _is_half(self, graph: Graph, used: Graph) -> bool:
        """Whether `graph` takes at most half of the pixels of `used` at once."""
        fits = (self._overlap or 0) <= min(graph.tile) - tiling.ALIGNMENT
        inside = all(side <= limit for side, limit in zip(graph.tile, used.tile, strict=True))
        return fits and inside and 2 * _pixels(graph) <= _pixels(used)

    def _load(self, graph: Graph) -> None:
        if self._loaded != graph:
            self._loaded = None
            self.backend.load(self.bundle, graph)
            self._loaded = graph

    def _upscaled(self, task: Task, graph: Graph) -> Iterator[tuple[tiling.Tile, np.ndarray]]:
        """Each tile with its upscaled pixels (scale·h, scale·w, 3), computed batch by batch."""
        tiles = task.tiles
        for first in range(0, len(tiles), graph.batch):
            group = tiles[first : first + graph.batch]
            filled = [group[min(i, len(group) - 1)] for i in range(graph.batch)]
            cuts = [_signed(tile.cut(task.picture)) for tile in filled]
            lr = np.stack([cut.transpose(2, 0, 1) for cut in cuts])
            noise = np.stack([self._noise(tile, graph, task) for tile in filled], axis=1)
            sr = self._finite(group, lr, noise, self.backend.run(lr, noise))
            task.report(first + len(group))
            for tile, upscaled in zip(group, sr, strict=False):  # the rest fill the batch
                yield tile, upscaled.transpose(1, 2, 0)

    def _finite(
        self, tiles: Sequence[tiling.Tile], lr: np.ndarray, noise: np.ndarray, sr: np.ndarray
    ) -> np.ndarray:
        """`sr`, or, if a value is not finite, the batch once more at a higher precision."""
        if np.isfinite(sr).all():
            return sr
        advice = ADVICE
        try:
            sr = self.backend.run_precisely(lr, noise)
        except PrecisionError as error:
            advice = str(error)
        for tile, upscaled in zip(tiles, sr, strict=False):
            if not np.isfinite(upscaled).all():
                raise _not_finite(tile, advice)
        return sr

    def _noise(self, tile: tiling.Tile, graph: Graph, task: Task) -> np.ndarray:
        """The tile's window (K, C, h, w) of the picture's noise."""
        manifest = self.bundle.manifest
        out = np.zeros((manifest.draws, manifest.latent_channels, *graph.tile), dtype=np.float32)
        out[: task.draws] = kernels.normals(
            task.seed,
            task.draws,
            manifest.latent_channels,
            tile.rows.start,
            tile.columns.start,
            *graph.tile,
        )
        return out


def _not_finite(tile: tiling.Tile, advice: str) -> UpscaleError:
    place = f"row {tile.rows.start}, column {tile.columns.start}"
    return UpscaleError(f"the model returns NaN or infinity in the tile at {place}; {advice}")


def _step(width: int) -> int:
    """Input rows that are colour-corrected at once; fewer where they are long."""
    return max(_BAND // 4, min(_BAND, 2**18 // width))


def _pixels(graph: Graph) -> int:
    """Input pixels that a graph takes at once."""
    return graph.batch * graph.tile[0] * graph.tile[1]


def _name(graph: Graph) -> str:
    return f"{graph.tile[0]}x{graph.tile[1]} batch {graph.batch}"


def matching(
    graphs: Sequence[Graph], tile: tuple[int, int] | None, batch: int | None
) -> list[Graph]:
    """The graphs of this tile and batch, where None stands for any.

    Raises:
        BundleError: there is none.
    """
    found = [g for g in graphs if tile in (None, g.tile) and batch in (None, g.batch)]
    if not found:
        has = ", ".join(f"{g.tile[0]}x{g.tile[1]} batch {g.batch}" for g in graphs)
        height, width = tile or graphs[0].tile
        raise BundleError(
            f"the bundle has no graph for tile {height}x{width} batch {batch or 1}, only {has}; "
            f"export one with: lpnsr-export --tile {height}x{width} --batch {batch or 1}"
        )
    return found


def _check(picture: np.ndarray) -> None:
    if picture.dtype not in (np.uint8, np.uint16) or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"expected uint8 or uint16 (H, W, 3), got {picture.dtype} {picture.shape}")
    if picture.size == 0:
        raise ValueError(f"a picture of shape {picture.shape} has no pixels")


def _blended(
    upscaled: Iterable[tuple[tiling.Tile, np.ndarray]], size: tuple[int, int], scale: int
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
