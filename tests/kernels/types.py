"""The types of the state on a GPU, for NumPy, which has no bfloat16."""

import numpy as np

# What rounding to the type may do, relative to values above 1.
TOLERANCES = {"float32": 5e-6, "float16": 8e-3, "bfloat16": 6e-2}


def narrowed(array, dtype):
    """A float32 array in `dtype`; bfloat16 as its bits."""
    if dtype == "bfloat16":
        bits = np.ascontiguousarray(array).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return array.astype(dtype)


def widened(array, dtype):
    """The inverse of `narrowed`."""
    if dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32)


def rounded(tensors, dtype):
    """Float32 arrays by name as what the kernel sees of them in `dtype`."""
    return {name: widened(narrowed(tensor, dtype), dtype) for name, tensor in tensors.items()}
