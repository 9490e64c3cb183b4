"""Whole pictures on a GPU: the small picture is uploaded, finished rows are downloaded.

The GPU cuts the tiles, makes their noise, blends their results, corrects the colours and rounds the
values. The host only queues work and takes finished bands, which are downloaded while the next ones
are computed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.kernels import Step, cuda, origins
from lpnsr.kernels.picture import PictureKernels, Sheet, Small
from lpnsr.runtime.backends.base import NotFiniteError, Task
from lpnsr.runtime.backends.cuda_memory import DeviceMemory, part, pinned, view
from lpnsr.runtime.backends.cuda_replay import Replay
from lpnsr.runtime.pictures import color
from lpnsr.runtime.tiles.tiling import Span

if TYPE_CHECKING:
    from cuda.core import Device, Event, Stream

_AHEAD = 2
"""Batches that are queued before the host waits for one."""

_STRIP = 128
"""Rows whose colours are corrected at once, to keep the memory for it small."""

_REACH = 2**color.LEVELS - 1
"""Rows above and below that the correction of a row depends on."""

_NO_TILE = np.uint32(2**32 - 1)


class Pictures:
    """Upscales one picture after the other.

    Args:
        device: the GPU, current in this thread.
        replay: the computation of a batch of tiles.
        shapes: of its tensors: lr (B, 3, h, w), noise (K, B, C, h, w) and sr (B, 3, s·h, s·w).
    """

    def __init__(self, device: Device, replay: Replay, shapes: Sequence[tuple[int, ...]]) -> None:
        self._device, self._replay = device, replay
        self._stream, self._download = replay.stream, device.create_stream()
        self._lr, self._noise, self._sr = shapes
        self._lr_at, self._noise_at, self._sr_at = replay.addresses.values()
        self._normals, self._kernels = cuda.ResidualShift(device), PictureKernels(device)

    def bands(self, task: Task) -> Generator[np.ndarray, None, None]:
        """Upscale a picture; see `lpnsr.runtime.backends.session.Session.bands`."""
        batch, tiles = self._lr[0], task.tiles
        under_way: deque[tuple[Event, int]] = deque()

        def wait() -> None:
            event, done = under_way.popleft()
            event.sync()
            task.report(done)

        try:
            streams = self._stream, self._download
            latent_side = self._noise[-1] / self._lr[-1]
            picture = _Picture(self._device, *streams, self._kernels, task, self._sr, latent_side)
            for first in range(0, len(tiles), batch):
                if len(under_way) == _AHEAD:
                    wait()
                picture.cut(first, self._lr, self._lr_at)
                self._make_noise(picture.origins(first), task.draws)
                self._replay.queue()
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
        finally:  # nothing may be written to memory that has been freed
            self._stream.sync()
            self._download.sync()

    def _make_noise(self, origins: int, draws: int) -> None:
        """Queue a batch's noise; what comes after `draws` is zero."""
        made, batch, channels, height, width = self._noise
        shape = batch, channels, height, width
        draw_bytes = 4 * math.prod(shape)
        for draw in range(made):
            self._normals.launch(
                self._stream,
                Step(state=0, prediction=0, noise=1),
                "float32",
                shape,
                out=self._noise_at + draw * draw_bytes,
                draw=draw,
                origins=origins if draw < draws else 0,
            )


class _Picture:
    """One picture in progress: its data on the GPU, and how far it has come."""

    def __init__(
        self,
        device: Device,
        stream: Stream,
        download: Stream,
        kernels: PictureKernels,
        task: Task,
        sr: Sequence[int],
        latent_side: float,
    ) -> None:
        self._stream, self._download, self._kernels, self._task = stream, download, kernels, task
        _, _, *self._size = sr
        self.tile_bytes = 4 * math.prod(sr[1:])
        (height, width), scale = task.picture.shape[:2], task.scale
        self._reach = _REACH if task.color_limit else 0
        memory = self._memory = DeviceMemory(device, stream)

        def room(rows: int) -> int:
            """Memory for rows of the large picture in float32."""
            return int(memory.room(4 * rows * 3 * scale * width).handle)

        small = memory.upload(np.ascontiguousarray(task.picture))
        self._small = Small(int(small.handle), height, width, task.picture.dtype)
        # The rows that a row of tiles covers, and those above that its colours depend on.
        capacity = self._size[0] + 2 * self._reach
        self._sheet = Sheet(room(capacity), capacity, scale * height, scale * width)
        self._between = [
            room(_STRIP + 2 * self._reach) for _ in range(2 if task.color_limit else 0)
        ]
        self._put_tiles(task, sr[0], latent_side)
        self._bad = memory.upload(np.array([_NO_TILE]))
        self._row_bytes = 3 * scale * width * task.dtype.itemsize
        # One band is downloaded and one waits, whatever number of them a batch finishes.
        slots = 2 + sr[0] // len(self._column_weights)
        size = (self._size[0] + self._reach) * self._row_bytes
        self._slots = deque(_Slot(device, memory, size) for _ in range(slots))
        self._waiting: deque[tuple[_Slot, int]] = deque()  # bands on their way, with their rows
        self._top = self._cleared = self._queued = 0
        memory.finish()

    def _put_tiles(self, task: Task, batch: int, latent_side: float) -> None:
        """Upload places, noise origins and weights of all tiles; the last tile fills its batch."""
        tiles = task.tiles
        filled = [*tiles, *[tiles[-1]] * (-len(tiles) % batch)]
        corners = [(tile.rows.start, tile.columns.start) for tile in filled]
        self._places = int(self._memory.upload(np.array(corners, np.uint32)).handle)
        latent = [(int(latent_side * top), int(latent_side * left)) for top, left in corners]
        self._origins = int(self._memory.upload(origins(task.seed, latent)).handle)
        self._row_weights = self._put_weights([tile.rows for tile in tiles], self._size[0])
        self._column_weights = self._put_weights([tile.columns for tile in tiles], self._size[1])

    def _put_weights(self, spans: Sequence[Span], size: int) -> dict[int, int]:
        """Start of each span -> address of its weights, which are zero beyond the picture."""
        weights = {span.start: np.pad(span.weight, (0, size - len(span.weight))) for span in spans}
        table = int(self._memory.upload(np.stack([*weights.values()])).handle)
        return {start: table + 4 * size * number for number, start in enumerate(weights)}

    def cut(self, first: int, shape: Sequence[int], out: int) -> None:
        """Queue the cutting of a batch (B, 3, h, w), tile `first` and those that follow."""
        self._kernels.cut(self._stream, self._small, self._places + 8 * first, shape, out)

    def origins(self, first: int) -> int:
        """Address of the noise origins of tile `first` and those that follow."""
        return self._origins + 16 * first

    def blend(self, number: int, address: int) -> Iterator[np.ndarray]:
        """Queue the blending of an upscaled tile; yields a band that is finished meanwhile."""
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
        """Finish the picture and yield the remaining bands."""
        yield from self._finish(self._sheet.height)
        while self._waiting:
            yield self._take()

    def _finish(self, blended: int) -> Iterator[np.ndarray]:
        """Queue the rows that no later tile changes, now that `blended` rows are complete."""
        is_last = blended == self._sheet.height
        first, last = self._queued, blended if is_last else blended - self._reach
        if last <= first:
            return
        if not self._slots:
            yield self._take()
        slot = self._slots.popleft()
        for top in range(first, last, _STRIP):
            rows = (top, min(top + _STRIP, last))
            out = int(slot.there.handle) + (top - first) * self._row_bytes
            correction = self._correct(rows) if self._task.color_limit else 0
            dtype = self._task.dtype
            self._kernels.finish(self._stream, self._sheet, rows, correction, dtype, out)
        self._stream.record(slot.computed)
        self._download.wait(slot.computed)
        size = (last - first) * self._row_bytes
        part(slot.here, size).copy_from(part(slot.there, size), stream=self._download)
        slot.bad.copy_from(self._bad, stream=self._download)
        self._download.record(slot.downloaded)
        self._waiting.append((slot, last - first))
        self._queued = last

    def _correct(self, rows: tuple[int, int]) -> int:
        """Queue the correction of these rows' colours; returns its address."""
        first = max(rows[0] - self._reach, 0)
        last = min(rows[1] + self._reach, self._sheet.height)
        source, target = self._between
        limit, rows_there = self._task.color_limit, (first, last)
        self._kernels.difference(self._stream, self._small, self._sheet, rows_there, limit, source)
        size = (last - first, self._sheet.width)
        for level in range(color.LEVELS):
            self._kernels.blur(self._stream, source, size, 2**level, target)
            source, target = target, source
        return source + 4 * (rows[0] - first) * 3 * self._sheet.width

    def _take(self) -> np.ndarray:
        """The next band."""
        slot, rows = self._waiting.popleft()
        slot.downloaded.sync()
        (bad,) = view(slot.bad, np.uint32, (1,))
        if bad != _NO_TILE:
            raise NotFiniteError(int(bad))
        self._slots.append(slot)
        return view(slot.here, self._task.dtype, (rows, self._sheet.width, 3)).copy()


class _Slot:
    """Memory for one band, here (pinned) and on the GPU, and how far it has come."""

    def __init__(self, device: Device, memory: DeviceMemory, size: int) -> None:
        self.there, self.here, self.bad = memory.room(size), pinned(size), pinned(4)
        self.computed, self.downloaded = device.create_event(), device.create_event()
