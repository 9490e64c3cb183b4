"""Whole pictures on a GPU: integers go up, integers come down, and nothing else in between.

The small picture is uploaded once. Tiles are cut, their noise made, their results blended, the
colours corrected and the values rounded on the GPU, so that the host only queues work and takes
finished bands, which are downloaded while the next are computed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.kernels import Step, cuda, origins
from lpnsr.kernels.picture import PictureKernels, Sheet, Small
from lpnsr.runtime import color
from lpnsr.runtime.backends import NotFiniteError, Task
from lpnsr.runtime.backends.lanes import view

if TYPE_CHECKING:
    from cuda.core import Buffer, Device, Event, Stream

_AHEAD = 2
"""Batches that are queued before the host waits for one."""

_NOISE = Step(state=0, prediction=0, noise=1)
_NOTHING = Step(state=0, prediction=0)
_NO_TILE = np.uint32(2**32 - 1)


class Pictures:
    """Upscales one picture after the other.

    Args:
        device: the GPU, current in this thread.
        stream: where to compute.
        shapes: shapes of a batch's tensors: lr (B, 3, h, w), noise (K, B, C, h, w) and
            sr (B, 3, s·h, s·w).
        addresses: of these on the GPU, in the same order.
        enqueue: queues the computation of sr on `stream`.
    """

    def __init__(
        self,
        device: Device,
        stream: Stream,
        shapes: Sequence[tuple[int, ...]],
        addresses: Sequence[int],
        enqueue: Callable[[], None],
    ) -> None:
        self._device, self._stream, self._enqueue = device, stream, enqueue
        self._download = device.create_stream()
        self._lr, self._noise, self._sr = shapes
        self._lr_at, self._noise_at, self._sr_at = addresses
        self._normals, self._kernels = cuda.ResidualShift(device), PictureKernels(device)

    def bands(self, task: Task) -> Iterator[np.ndarray]:
        """Upscale a picture; see `lpnsr.runtime.backends.Backend.bands`."""
        batch, tiles = self._lr[0], task.tiles
        under_way: deque[tuple[Event, int]] = deque()

        def wait() -> None:
            event, done = under_way.popleft()
            event.sync()
            task.report(done)

        try:
            streams = self._stream, self._download
            picture = _Picture(self._device, *streams, self._kernels, task, self._sr)
            for first in range(0, len(tiles), batch):
                if len(under_way) == _AHEAD:
                    wait()
                picture.cut(first, self._lr, self._lr_at)
                self._make_noise(picture.origins(first), task.draws)
                self._enqueue()
                last = min(first + batch, len(tiles))
                ready: list[np.ndarray] = []
                for number in range(first, last):
                    address = self._sr_at + (number - first) * picture.tile_bytes
                    ready += picture.blend(number, address)
                under_way.append((self._device.create_event(), last))
                self._stream.record(under_way[-1][0])
                yield from ready  # not earlier: what comes in between may use the same memory
            while under_way:
                wait()
            yield from picture.end()
        finally:  # nothing may be written to memory that is given back
            self._stream.sync()
            self._download.sync()

    def _make_noise(self, origins: int, draws: int) -> None:
        """Queue a batch's noise; what comes after `draws` is zero."""
        draw_bytes = 4 * math.prod(self._noise[1:])
        for draw in range(self._noise[0]):
            self._normals.launch(
                self._stream,
                _NOISE if draw < draws else _NOTHING,
                "float32",
                self._noise[1:],
                out=self._noise_at + draw * draw_bytes,
                draw=draw,
                origins=origins,
            )


class _Picture:
    """One picture under way: what of it lies on the GPU, and how far it is."""

    def __init__(
        self,
        device: Device,
        stream: Stream,
        download: Stream,
        kernels: PictureKernels,
        task: Task,
        sr: Sequence[int],
    ) -> None:
        self._stream, self._download, self._kernels, self._task = stream, download, kernels, task
        _, _, *self._size = sr
        self.tile_bytes = 4 * math.prod(sr[1:])
        (height, width), scale = task.picture.shape[:2], task.scale
        self._halo = color.HALO * scale if task.color_fix else 0
        # What a row of tiles covers, and above it what its colours hang on.
        capacity, line = self._size[0] + 2 * self._halo, 3 * scale * width
        upload = self._upload = _Upload(device, stream)
        self._small = Small(upload(task.picture), height, width, task.picture.dtype)
        self._put_tiles(task, sr[0], upload)
        self._bad = upload.buffer(np.array([_NO_TILE]))
        rooms = [upload.room(4 * capacity * line) for _ in range(3 if task.color_fix else 1)]
        sheet, *self._between = (int(room.handle) for room in rooms)
        self._sheet = Sheet(sheet, capacity, scale * height, scale * width)
        size = (self._size[0] + self._halo) * line * task.dtype.itemsize
        self._slots = deque(_Slot(device, upload, size) for _ in range(2))
        self._waiting: deque[tuple[_Slot, int]] = deque()  # bands on their way, with their rows
        self._top = self._cleared = self._queued = 0
        upload.finish()

    def _put_tiles(self, task: Task, batch: int, upload: _Upload) -> None:
        """Places, noise origins and weights of all tiles; the last fills its batch."""
        tiles = task.tiles
        filled = [*tiles, *tiles[-1:] * (-len(tiles) % batch)]
        corners = [(tile.rows.start, tile.columns.start) for tile in filled]
        self._places = upload(np.array(corners, np.uint32))
        self._origins = upload(origins(task.seed, corners))
        rows = {tile.rows.start: tile.rows for tile in tiles}
        columns = {tile.columns.start: tile.columns for tile in tiles}
        self._row_weights, self._column_weights = (
            {start: upload(_padded(span.weight, size)) for start, span in spans.items()}
            for spans, size in zip((rows, columns), self._size, strict=True)
        )

    def cut(self, first: int, shape: Sequence[int], out: int) -> None:
        """Queue the cutting of a batch (B, 3, h, w), tile `first` and those that follow."""
        self._kernels.cut(self._stream, self._small, self._places + 8 * first, shape, out)

    def origins(self, first: int) -> int:
        """Where the origins of the noise of tile `first` and those that follow lie."""
        return self._origins + 16 * first

    def blend(self, number: int, address: int) -> Iterator[np.ndarray]:
        """Queue the blending of an upscaled tile; yields a band that is done meanwhile."""
        tile, scale = self._task.tiles[number], self._task.scale
        corner = (scale * tile.rows.start, scale * tile.columns.start)
        if corner[0] != self._top:
            yield from self._finish(corner[0])
            self._top = corner[0]
        if (end := self._top + self._size[0]) > self._cleared:
            self._kernels.clear(self._stream, self._sheet, self._cleared, end)
            self._cleared = end
        weights = (self._row_weights[tile.rows.start], self._column_weights[tile.columns.start])
        self._kernels.blend(
            self._stream,
            self._sheet,
            address,
            self._size,
            number,
            weights,
            corner,
            int(self._bad.handle),
        )

    def end(self) -> Iterator[np.ndarray]:
        """Finish the picture and yield the bands that are left."""
        yield from self._finish(self._sheet.height)
        while self._waiting:
            yield self._take()

    def _finish(self, blended: int) -> Iterator[np.ndarray]:
        """Queue the rows that no later tile changes, now that `blended` rows have all of theirs."""
        is_last = blended == self._sheet.height
        first, last = self._queued, blended if is_last else blended - self._halo
        if last <= first:
            return
        if not self._slots:
            yield self._take()
        slot, stream = self._slots.popleft(), self._stream
        above = max(first - self._halo, 0)
        correction = self._correct(above, blended) if self._task.color_fix else 0
        if correction:
            correction += 4 * (first - above) * 3 * self._sheet.width
        rows, out = (first, last), int(slot.there.handle)
        self._kernels.finish(stream, self._sheet, rows, correction, self._task.dtype, out)
        stream.record(slot.computed)
        self._download.wait(slot.computed)
        size = (last - first) * 3 * self._sheet.width * self._task.dtype.itemsize
        _part(slot.here, size).copy_from(_part(slot.there, size), stream=self._download)
        slot.bad.copy_from(self._bad, stream=self._download)
        self._download.record(slot.downloaded)
        self._waiting.append((slot, last - first))
        self._queued = last

    def _correct(self, first: int, last: int) -> int:
        """Queue the correction of these rows' colours; returns where it will lie."""
        source, target = self._between
        self._kernels.difference(self._stream, self._small, self._sheet, (first, last), source)
        for level in range(color.LEVELS):
            size = (last - first, self._sheet.width)
            self._kernels.blur(self._stream, source, size, 2**level, target)
            source, target = target, source
        return source

    def _take(self) -> np.ndarray:
        """The next band."""
        slot, rows = self._waiting.popleft()
        slot.downloaded.sync()
        bad = int(view(slot.bad, np.uint32, (1,))[0])
        if bad != _NO_TILE:
            raise NotFiniteError(bad)
        shape = (rows, self._sheet.width, 3)
        size = math.prod(shape) * self._task.dtype.itemsize
        band = view(slot.here, np.uint8, (slot.here.size,))[:size].view(self._task.dtype)
        self._slots.append(slot)
        return band.reshape(shape).copy()


class _Slot:
    """Memory of one band, here (pinned) and on the GPU, and how far it is."""

    def __init__(self, device: Device, upload: _Upload, size: int) -> None:
        self.there, self.here, self.bad = upload.room(size), _pinned(size), _pinned(4)
        self.computed, self.downloaded = device.create_event(), device.create_event()


class _Upload:
    """Memory on the GPU, and arrays that are brought there; it is held as long as this is."""

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device, self._stream = device, stream
        self._there: list[Buffer] = []
        self._here: list[Buffer] = []

    def __call__(self, array: np.ndarray) -> int:
        """The address of a copy of an array."""
        return int(self.buffer(array).handle)

    def buffer(self, array: np.ndarray) -> Buffer:
        """A copy of an array."""
        here, there = _pinned(array.nbytes), self.room(array.nbytes)
        np.copyto(view(here, array.dtype, array.shape), array)
        there.copy_from(here, stream=self._stream)
        self._here.append(here)
        return there

    def room(self, size: int) -> Buffer:
        """Memory for so many bytes."""
        self._there.append(self._device.allocate(size, stream=self._stream))
        return self._there[-1]

    def finish(self) -> None:
        """Wait until all arrays are there."""
        self._stream.sync()
        self._here.clear()


def _pinned(size: int) -> Buffer:
    from cuda.core import LegacyPinnedMemoryResource

    return LegacyPinnedMemoryResource().allocate(size)


def _part(buffer: Buffer, size: int) -> Buffer:
    """The first bytes of a buffer."""
    return type(buffer).from_handle(int(buffer.handle), size, owner=buffer)


def _padded(weights: np.ndarray, size: int) -> np.ndarray:
    """Weights of a tile's rows or columns, with zeros beyond the end of the picture."""
    return np.pad(weights, (0, size - len(weights)))
