"""Memory on an NVIDIA GPU, through `cuda.core`."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from lpnsr.runtime.backends.base import BackendError

if TYPE_CHECKING:
    from cuda.core import Buffer, Device, Stream


@contextmanager
def cuda_errors(what: str) -> Iterator[None]:
    """Turn errors of `cuda.core` into a `BackendError`, or a `MemoryError` if memory is out."""
    from cuda.core._utils.cuda_utils import CUDAError

    try:
        yield
    except CUDAError as error:
        reason = str(error).splitlines()[0]
        is_memory = re.search("OUT_OF_MEMORY|out of memory", str(error))
        raise (MemoryError if is_memory else BackendError)(f"{what}: {reason}") from error


class DeviceMemory:
    """Memory on the GPU that is held as long as this object exists.

    Args:
        device: the GPU.
        stream: the stream on which memory is allocated and filled.
    """

    def __init__(self, device: Device, stream: Stream) -> None:
        self._device, self._stream = device, stream
        self._there: list[Buffer] = []
        self._here: list[Buffer] = []

    def room(self, size: int) -> Buffer:
        """Allocate this many bytes."""
        self._there.append(self._device.allocate(size, stream=self._stream))
        return self._there[-1]

    def upload(self, array: np.ndarray) -> Buffer:
        """A copy of an array, complete once `finish` has returned."""
        here, there = pinned(array.nbytes), self.room(array.nbytes)
        np.copyto(view(here, array.dtype, array.shape), array)
        there.copy_from(here, stream=self._stream)
        self._here.append(here)
        return there

    def finish(self) -> None:
        """Wait until the memory may be used on other streams too."""
        self._stream.sync()
        self._here.clear()


def pinned(size: int) -> Buffer:
    """Host memory that a GPU can copy from and to without the CPU's help."""
    from cuda.core import LegacyPinnedMemoryResource

    return LegacyPinnedMemoryResource().allocate(size)


def view(buffer: Buffer, dtype: np.dtype | type, shape: tuple[int, ...]) -> np.ndarray:
    """The first bytes of pinned memory as an array, which does not keep it alive."""
    content = (ctypes.c_byte * buffer.size).from_address(int(buffer.handle))
    return np.frombuffer(content, dtype, int(np.prod(shape))).reshape(shape)


def part(buffer: Buffer, size: int) -> Buffer:
    """The first bytes of a buffer."""
    return type(buffer).from_handle(int(buffer.handle), size, owner=buffer)
