"""What happens to a picture on the GPU before and after its tiles are computed.

The large picture is made from top to bottom on a sheet, a ring of rows of float32 (W, 3): row r of
the picture is row r modulo the sheet's capacity. Tensors are device addresses, and every method
queues its work and returns at once. `lpnsr.runtime.tiles` and `lpnsr.runtime.pictures.color` say
in NumPy what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.kernels.cuda import Kernels

if TYPE_CHECKING:
    from cuda.core import Device, Stream

_THREADS = 128


@dataclass(frozen=True)
class Small:
    """The small picture on the GPU.

    Attributes:
        address: of its values (height, width, 3).
        height: rows.
        width: columns.
        dtype: uint8 or uint16.
    """

    address: int
    height: int
    width: int
    dtype: np.dtype

    @property
    def half(self) -> np.float32:
        """What its values are divided by to become 0 to 2."""
        return _half(self.dtype)


@dataclass(frozen=True)
class Sheet:
    """The large picture's rows on the GPU.

    Attributes:
        address: of its float32 values (capacity, width, 3).
        capacity: rows that it holds.
        height: rows of the large picture.
        width: its columns.
    """

    address: int
    capacity: int
    height: int
    width: int


class PictureKernels:
    """The kernels of `picture.cu` on one GPU.

    Args:
        device: the GPU, as `lpnsr.kernels.cuda.device` returns it.
    """

    def __init__(self, device: Device) -> None:
        self.kernels = Kernels(device.arch, "picture")

    def cut(
        self, stream: Stream, small: Small, places: int, shape: Sequence[int], out: int
    ) -> None:
        """Cut tiles out of the small picture, mirrored at its end.

        Args:
            stream: where to queue it.
            small: the picture.
            places: uint32 (B, 2), row and column of each tile.
            shape: (B, 3, h, w) of the tiles together.
            out: receives them, float32 in [-1, 1].
        """
        count, channels, rows, columns = shape
        addresses = (small.address, places, out)
        sizes = (small.height, small.width, rows, columns)
        grid = (rows * columns, channels, count)
        self._launch(stream, grid, f"picture_cut_{small.dtype}", addresses, sizes, small.half)

    def clear(self, stream: Stream, sheet: Sheet, first: int, last: int) -> None:
        """Let the rows from `first` up to `last` of the large picture be zero."""
        sizes = (sheet.width, sheet.capacity, first)
        grid = (3 * sheet.width, last - first, 1)
        self._launch(stream, grid, "picture_clear", (sheet.address,), sizes)

    def blend(
        self,
        stream: Stream,
        sheet: Sheet,
        tile: int,
        size: Sequence[int],
        number: int,
        weights: tuple[int, int],
        corner: tuple[int, int],
        bad: int,
    ) -> None:
        """Add a tile's share to the large picture.

        Args:
            stream: where to queue it.
            sheet: the picture.
            tile: float32 (3, h, w).
            size: its (h, w).
            number: of the tile.
            weights: float32 (h,) and (w,), shares of the tile in its rows and its columns.
            corner: row and column of its first value in the large picture.
            bad: uint32, becomes the least number of a tile with a value that is not finite.
        """
        addresses = (tile, *weights, sheet.address, bad)
        sizes = (size[1], number, *corner, sheet.height, sheet.width, sheet.capacity)
        self._launch(stream, (size[1], size[0], 1), "picture_blend", addresses, sizes)

    def difference(
        self,
        stream: Stream,
        small: Small,
        sheet: Sheet,
        rows: tuple[int, int],
        limit: float,
        out: int,
    ) -> None:
        """The small picture, enlarged with a cubic filter, minus the large one, within limits.

        Args:
            stream: where to queue it.
            small: the small picture.
            sheet: the large one.
            rows: first row and the one after the last.
            limit: of a difference's magnitude.
            out: receives float32 (n, W, 3).
        """
        first, last = rows
        addresses = (small.address, sheet.address, out)
        scale = sheet.width // small.width
        sizes = (small.height, small.width, scale, sheet.capacity, first)
        grid = (3 * sheet.width, last - first, 1)
        name = f"picture_difference_{small.dtype}"
        self._launch(stream, grid, name, addresses, sizes, small.half, np.float32(limit))

    def blur(
        self, stream: Stream, source: int, size: tuple[int, int], distance: int, out: int
    ) -> None:
        """Blur with [1 2 1]/4 along both axes, its taps `distance` pixels apart.

        Args:
            stream: where to queue it.
            source: float32 (h, w, 3); beyond the ends its first and last values go on.
            size: its (h, w).
            distance: between taps.
            out: receives the same of other values, in another place.
        """
        grid = (3 * size[1], size[0], 1)
        self._launch(stream, grid, "picture_blur", (source, out), (size[1], distance))

    def finish(
        self,
        stream: Stream,
        sheet: Sheet,
        rows: tuple[int, int],
        correction: int,
        dtype: np.dtype,
        out: int,
    ) -> None:
        """Rows as they are given out: corrected, clipped and, but for float32, rounded.

        Args:
            stream: where to queue it.
            sheet: the large picture.
            rows: first row and the one after the last.
            correction: float32 (n, W, 3) to add; 0 for none.
            dtype: float32, uint8 or uint16, where -1 becomes 0 and 1 the largest value.
            out: receives (n, W, 3) of it.
        """
        first, last = rows
        addresses = (sheet.address, correction, out)
        sizes = (sheet.width, sheet.capacity, first)
        half = np.float32(1) if dtype == np.float32 else _half(dtype)
        grid = (3 * sheet.width, last - first, 1)
        self._launch(stream, grid, f"picture_finish_{dtype}", addresses, sizes, half)

    def _launch(
        self,
        stream: Stream,
        threads: tuple[int, int, int],
        name: str,
        addresses: Sequence[int],
        sizes: Sequence[int],
        *values: np.float32,
    ) -> None:
        from cuda.core import LaunchConfig, launch

        grid = (-(-threads[0] // _THREADS), *threads[1:])
        config = LaunchConfig(grid=grid, block=_THREADS)
        launch(stream, config, self.kernels[name], *addresses, *map(np.uint32, sizes), *values)


def _half(dtype: np.dtype) -> np.float32:
    return np.float32(np.iinfo(dtype).max / 2)
