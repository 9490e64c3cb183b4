"""A bundle and a picture in, a picture four times the size out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil

from lpnsr.runtime import backends, planes
from lpnsr.runtime.backends import host_pictures, pool
from lpnsr.runtime.backends.base import NotFiniteError, Task
from lpnsr.runtime.backends.session import Backend, Session
from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.manifest import BundleError, Graph
from lpnsr.runtime.pictures import inputs
from lpnsr.runtime.planes import Progress, RgbModel
from lpnsr.runtime.tiles import tiling
from lpnsr.runtime.tiles.layout import TileLayout, choose

MEMORY = min(4 * 2**30, psutil.virtual_memory().total // 2)
"""Bytes that loaded graphs take together by default: 4 GiB, or half of the machine's memory."""


class UpscaleError(RuntimeError):
    """The model's output for a picture is unusable."""


@dataclass(frozen=True)
class Description:
    """Everything needed to make an upscaler; picklable, so that a process can make its own.

    Attributes:
        bundle: the bundle's folder; the built-in model by default.
        backend: inference engine, one of `lpnsr.runtime.backends.NAMES`.
        device: "cpu", "cuda", or "cuda:1" for the second GPU; by default what the backend takes.
        tile: (height, width) of the tiles in input pixels; by default, each picture gets those of
            the bundle that process the fewest pixels.
        batch: tiles to run at once; by default the smallest number that the bundle has.
        overlap: least number of input pixels that neighbouring tiles share; by default 8 or 16,
            whichever costs less (see `lpnsr.runtime.tiles.layout.choose`).
        threads: CPU threads; by default the engine decides.
        precision: what the engine computes in, one of `lpnsr.runtime.backends.PRECISIONS`; "auto"
            is the fastest in which the model was found accurate at export.
        memory: most bytes that loaded graphs may take together, as estimated by
            `lpnsr.runtime.backends.pool`. Graphs in use stay loaded even beyond this limit.
    """

    bundle: Path = BUILTIN
    backend: str = "auto"
    device: str | None = None
    tile: tuple[int, int] | None = None
    batch: int | None = None
    overlap: int | None = None
    threads: int | None = None
    precision: str = "auto"
    memory: int = MEMORY


class Upscaler:
    """Upscales pictures of any size with the model of one bundle.

    Several threads may use it at the same time, also while a generator of `bands` is open. A graph
    is loaded when a picture first needs it and kept for later ones. Used as a context manager, the
    upscaler releases its graphs at the end. Pickling saves only its description: the process that
    unpickles it loads what it needs.

    Args:
        description: what to open.
        backend: a custom engine to use instead of the described one. Such an upscaler cannot be
            pickled.

    Attributes:
        description: what was opened, with an absolute path.
        bundle: the opened bundle.
        backend: the engine that runs its graphs.
        choice: the engine that was chosen, and why.

    Raises:
        BundleError: the bundle is missing or damaged, or has no graph of this tile and batch.
        BackendError: the engine is unknown or not installed, or cannot run the bundle on the
            device.
        TilingError: the overlap does not suit the tile.
    """

    def __init__(self, description: Description, backend: Backend | None = None) -> None:
        self.bundle = bundle = Bundle.open(description.bundle)
        self.description = replace(description, bundle=bundle.path.absolute())
        self._graphs = matching(bundle.manifest.graphs, description.tile, description.batch)
        for graph in self._graphs:
            tiling.check(graph.tile, description.overlap or 0)
        self._is_described, why = backend is None, "as given"
        if backend is None:
            backend, why = backends.create(
                description.backend,
                description.threads,
                description.precision,
                set.intersection(*(set(graph.precisions) for graph in self._graphs)),
                bundle,
                self._graphs,
                description.device,
            )
        self.backend = backend
        self.choice = f"{backend.describe()} ({why})"
        self._sessions = pool.SessionPool(
            self._load, partial(pool.estimate, bundle), description.memory
        )
        self._shares = self._divided()

    def _divided(self) -> int:
        """Shares of the engine's threads, one for each of the tiles that memory suffices for."""
        if self.backend.threads == 1 or any(graph.batch > 1 for graph in self._graphs):
            return 1  # in the second case tiles share batches instead
        largest = max(pool.estimate(self.bundle, graph) for graph in self._graphs)
        return max(1, min(self.backend.threads, self.description.memory // largest))

    def _load(self, graph: Graph, divided: bool) -> Session:
        backend = self.backend.divided(self._shares) if divided else self.backend
        return backend.load(self.bundle, graph)

    @property
    def parallel(self) -> int:
        """Small pictures to upscale at the same time.

        Where batches have several tiles, as many as fill two of them: while one is computed, the
        other gathers. Else as many as the engine computes tiles side by side.
        """
        batch = min(graph.batch for graph in self._graphs)
        return 2 * batch if batch > 1 else self._shares

    @classmethod
    def from_bundle(cls, path: str | Path = BUILTIN, **options: Any) -> Upscaler:
        """Open a bundle.

        Args:
            path: the bundle's folder; the built-in model by default.
            **options: the other fields of `Description`, by name.

        Raises:
            BundleError, BackendError, TilingError: see `Upscaler`.
        """
        return cls(Description(Path(path), **options))

    def __reduce__(self) -> tuple[type[Upscaler], tuple[Description]]:
        if not self._is_described:
            raise TypeError("an upscaler with a custom engine cannot be pickled")
        return Upscaler, (self.description,)

    def __enter__(self) -> Upscaler:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the loaded graphs once they are no longer in use; refuse further pictures."""
        self._sessions.close()

    def __repr__(self) -> str:
        manifest = self.bundle.manifest
        return f"<Upscaler: {manifest.preset}, x{manifest.scale}, {self.backend.describe()}>"

    def upscale(
        self,
        picture: Any,
        *,
        scale: float | None = None,
        seed: int = 0,
        deterministic: bool = False,
        color_fix: bool = True,
        progress: Progress | None = None,
    ) -> Any:
        """Upscale one picture, or a batch of pictures.

        The result depends on the arguments, the model, the tile and the overlap, not on the batch
        or on other pictures. Grey pictures stay grey; alpha is enlarged by bicubic interpolation,
        and what it hides does not show.

        Args:
            picture: grey or RGB, with or without alpha:

                - an array (H, W) or (H, W, C) of uint8, uint16 or floating-point values in [0, 1],
                  or what gives one by `__array__` or DLPack;
                - a PIL image in mode L, LA, RGB or RGBA;
                - the path of a picture's file, of any kind that `lpnsr-run` reads;
                - a PyTorch tensor (C, H, W) on the CPU, of the same types as arrays;
                - or several: a list or tuple of pictures of any kind and size, an array
                  (N, H, W, C), or a tensor (N, C, H, W).
            scale: from 1 to the model's, which is the default; less is reduced from it.
            seed: 0 to 2**64 - 1; another seed gives another, equally plausible picture.
            deterministic: use the mean of the predicted noise in every step. The noise that starts
                the chain still comes from the seed.
            color_fix: take the large-scale colours from `picture`.
            progress: called before the first batch of tiles and after each; several pictures are
                then upscaled one after the other, and share no batches.

        Returns:
            a picture of the same kind, type and channels; of floating-point values, float32 in
            [0, 1]. A path gives an array. Of a batch, a list, an array or a tensor.

        Raises:
            ValueError: `picture` is none of these, the scale or the seed is out of range, or the
                upscaler is closed.
            ImageError: the file cannot be read.
            UpscaleError: the model returns values that are not finite.
            BackendError: the engine fails.
            BundleError: the graph is not what the bundle's manifest says.
            MemoryError: there is not enough memory; `bands` with a `lighter` layout needs less.
        """
        most = self.bundle.manifest.scale
        if scale is not None and not 1 <= scale <= most:
            raise ValueError(f"scale {scale} is not from 1 to {most}")
        model = RgbModel(
            partial(self.bands, seed=seed, deterministic=deterministic, color_fix=color_fix), most
        )

        def upscale(each: Any) -> Any:
            return self._upscale(model, each, scale, progress)

        if batch := inputs.batch(picture):
            if self.parallel == 1 or progress:
                return batch.restore([upscale(each) for each in batch.pictures])
            with ThreadPoolExecutor(self.parallel) as threads:
                return batch.restore(list(threads.map(upscale, batch.pictures)))
        return upscale(picture)

    def _upscale(
        self, model: RgbModel, picture: Any, scale: float | None, progress: Progress | None
    ) -> Any:
        given = inputs.convert(picture)
        size = planes.scaled(given.pixels.shape[:2], scale or model.scale)
        result = np.empty((*size, given.pixels.shape[2]), dtype=given.dtype)
        done = 0
        for band in planes.upscale(model, given.pixels, size, given.dtype, progress=progress):
            result[done : done + len(band)] = band
            done += len(band)
        return given.restore(result)

    def bands(
        self,
        picture: np.ndarray,
        *,
        seed: int = 0,
        deterministic: bool = False,
        color_fix: bool = True,
        dtype: np.dtype | type = np.float32,
        progress: Progress | None = None,
        layout: TileLayout | None = None,
    ) -> Iterator[np.ndarray]:
        """Upscale one picture band by band, so that the whole output is never in memory.

        Errors are those of `upscale`.

        Args:
            picture: uint8 or uint16 (H, W, 3), RGB.
            seed: see `upscale`.
            deterministic: see `upscale`.
            color_fix: see `upscale`.
            dtype: of the result: float32, or uint8 or uint16, where -1 becomes 0 and 1 the largest
                value.
            progress: see `upscale`.
            layout: how the picture is cut; by default as `layout` says.

        Yields:
            `dtype` (n, scale·W, 3), float32 in [-1, 1]; the bands together are the output, top to
            bottom.
        """
        inputs.check(picture, (3,))
        size, manifest = picture.shape[:2], self.bundle.manifest
        chosen = layout or self.layout(size)
        tiles = tiling.plan(size, chosen.graph.tile, chosen.overlaps, manifest.scale)
        report = progress or (lambda done, total: None)
        task = Task(
            picture,
            tiles,
            manifest.scale,
            seed,
            1 if deterministic else manifest.draws,
            (manifest.color_limit or np.inf) if color_fix else 0.0,
            np.dtype(dtype),
            lambda done: report(done, len(tiles)),
        )
        with self._sessions.use(chosen.graph, self._shares > 1, len(tiles) > 1) as session:
            task.report(0)
            try:
                yield from session.bands(task)
            except NotFiniteError as error:
                tile = tiles[error.number]
                place = f"row {tile.rows.start}, column {tile.columns.start}"
                raise UpscaleError(
                    f"the model returns NaN or infinity in the tile at {place}; {error.advice}"
                ) from error

    def memory(self, size: tuple[int, int]) -> int:
        """Bytes that `bands` needs at its peak for a picture of this (height, width)."""
        return host_pictures.memory(self.layout(size).graph, size, self.bundle.manifest.scale)

    def layout(self, size: tuple[int, int]) -> TileLayout:
        """How a picture of this (height, width) is cut."""
        return choose(self._graphs, size, self.description.overlap)

    def lighter(self, size: tuple[int, int], than: TileLayout) -> TileLayout:
        """A layout to retry with after memory has run out; also releases unused graphs.

        Args:
            size: (height, width) of the picture.
            than: the layout that needed too much; its batch is reduced first, then its tile.

        Raises:
            MemoryError: the bundle has no graph with half as many pixels.
        """
        self._sessions.release()
        overlap = self.description.overlap
        graphs = [
            graph
            for graph in self.bundle.manifest.graphs
            if _is_half(graph, than.graph) and (overlap or 0) <= min(graph.tile) - tiling.ALIGNMENT
        ]
        if not graphs:
            raise MemoryError("not enough memory; crop or split the picture")
        largest = max(graphs, key=lambda graph: (graph.tile[0] * graph.tile[1], graph.batch))
        return choose([g for g in graphs if g.batch <= largest.batch], size, overlap)


def _is_half(graph: Graph, used: Graph) -> bool:
    """Whether `graph` takes at most half of the pixels of `used` at once."""
    inside = all(side <= limit for side, limit in zip(graph.tile, used.tile, strict=True))
    return inside and 2 * graph.pixels <= used.pixels


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
