"""Each network traced once, to an ONNX graph of static shape."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import cast

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from lpnsr.export.graph import passes
from lpnsr.export.graph.precision import DTYPES, MixedPrecision, narrowed
from lpnsr.kernels.recurrence import Step
from lpnsr.models.categories import watched
from lpnsr.models.chain import Chain
from lpnsr.models.families import Stage
from lpnsr.models.presets import Preset

# The newest operator set that TensorRT 10 and 11, OpenVINO and ONNX Runtime all take whole.
OPSET = 20
# The first whose convolution takes bfloat16; all that is used here is the same in both otherwise.
BFLOAT16_OPSET = 22


class _Traced(nn.Module):
    """One stage as a module of its own, which is what can be traced."""

    def __init__(self, stage: Stage, networks: Sequence[nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        self.stage, self.dtype, self.is_narrow = stage, dtype, dtype != torch.float32
        if self.is_narrow:
            networks = [narrowed(network, dtype) for network in networks]
        self.networks = nn.ModuleList(networks)

    def forward(self, *arguments: object) -> tuple[Tensor, ...]:
        """Compute the stage, from float32 to float32; gives the outputs, then the categories."""
        categories: list[Tensor] = []
        with (
            watched(self.networks, categories.append),
            MixedPrecision(self.dtype) if self.is_narrow else nullcontext(),
        ):
            outputs = self.stage(list(self.networks), *arguments)
            if self.is_narrow:
                outputs = tuple(output.float() for output in outputs)
        return (*outputs, *categories)


def trace_stage(
    chain: Chain,
    preset: Preset,
    name: str,
    batch: int,
    tile: tuple[int, int],
    precision: str = "fp32",
) -> ir.Model:
    """Trace one stage for a batch of tiles.

    Args:
        chain: the networks.
        preset: gives the shapes.
        name: of the stage.
        batch: tiles at once.
        tile: (height, width) of the input picture.
        precision: "fp32", or "fp16" or "bf16" for what `lpnsr.export.graph.precision` makes of it.

    Returns:
        a graph whose inputs are those of the stage, followed by the tensors that a folded timestep
        becomes; its outputs are those of the stage, followed, where a network sorts tokens into
        categories, by these, (B, n) int64. The others are float32.
    """
    stage = chain.stage(name)
    inputs = [torch.zeros(preset.shape(value, batch, tile)) for value in stage.inputs]
    step = chain.updates()[0]
    _fill_window_tables(chain, stage, step, inputs)
    with torch.no_grad():
        told = chain.told(stage, step)
    module = _Traced(stage, chain.networks(stage), getattr(torch, DTYPES[precision]))
    return trace(module, (*inputs, *told))


def _fill_window_tables(
    chain: Chain, stage: Stage, step: Step, inputs: Sequence[torch.Tensor]
) -> None:
    """Compute a stage once in float32, for the tables that attention keeps for each size.

    Those that exist before tracing become constants of the graph. The narrow form needs the same
    ones, and processors take minutes over float16 convolutions.
    """
    with torch.no_grad():
        chain.compute(stage, step, *inputs)


def trace(module: nn.Module, inputs: tuple[object, ...]) -> ir.Model:
    """Trace a module to an ONNX graph, fold all that is constant, apply the rewrites."""
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module, inputs, dynamo=True, opset_version=OPSET, optimize=True, verbose=False
        )
        # None comes only from the older exporter.
        model = cast(torch.onnx.ONNXProgram, program).model
        unlimited = 1 << 62
        onnxscript.optimizer.optimize(
            model, input_size_limit=unlimited, output_size_limit=unlimited
        )
    passes.rewrite(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes about optional packages and folding off the user's screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
