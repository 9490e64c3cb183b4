"""Half precision, authored where a network is traced: narrow weights and float32 islands.

Convolutions, linear layers and matrix products compute in the narrow type, on weights that are
stored in it. Norms and softmax compute in float32, and so does whatever else meets a float32 value,
up to the next product. A stage takes and gives float32; the state update knows nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from lpnsr.models.presets import Preset

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision -> name of PyTorch's data type."""

PRODUCTS = frozenset({torch.conv2d, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__})
ISLANDS = frozenset({F.group_norm, F.layer_norm, F.instance_norm, torch.softmax, Tensor.softmax})


class MixedPrecision(TorchFunctionMode):
    """Inside it, products compute in a narrow type, norms and softmax in float32.

    These are the rules of `torch.autocast` on a GPU. That one does not reach into traces, and takes
    other functions where there is no GPU.

    Args:
        dtype: the narrow type.
        seen: shown every tensor of the narrow type, weights included.
    """

    def __init__(
        self, dtype: torch.dtype, seen: Callable[[Tensor], None] = lambda tensor: None
    ) -> None:
        super().__init__()
        self.dtype, self.seen = dtype, seen

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `function` on arguments of the type that it is to compute in."""
        kwargs = kwargs or {}
        if function in PRODUCTS:
            args, kwargs = self._cast((args, kwargs), self.dtype)
        elif function in ISLANDS:
            args, kwargs = self._cast((args, kwargs), torch.float32)
        result = function(*args, **kwargs)
        if isinstance(result, Tensor) and result.dtype == self.dtype:
            self.seen(result)
        return result

    def _cast(self, values: Any, dtype: torch.dtype) -> Any:
        """The same with all floating-point tensors in `dtype`."""

        def cast(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            if dtype == self.dtype:
                self.seen(tensor.to(dtype))
            return tensor.to(dtype)

        return tree_map_only(Tensor, cast, values)


def narrowed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy whose convolutions and linear layers have weights of type `dtype`."""
    module = copy.deepcopy(module)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.to(dtype)
    return module


def assign(preset: Preset, precision: str) -> dict[str, str]:
    """The precision of each stage: "fp32", "fp16" or "bf16".

    In fp32 stay those that are precise, and stages without trained networks, which only move or
    average values.

    Args:
        preset: the model.
        precision: one of `lpnsr.models.roles.PRECISIONS`.
    """
    types = {}
    for stage in preset.stages:
        narrow = "fp16" if precision == "mixed" else precision
        if precision == "mixed" and stage.name in preset.bf16:
            narrow = "bf16"
        is_fixed = stage.precise or preset.networks.keys().isdisjoint(stage.networks)
        types[stage.name] = "fp32" if is_fixed else narrow
    return types
