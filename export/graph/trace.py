"""Each network traced once, to an ONNX graph of static shape."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from lpnsr.export.graph import passes
from lpnsr.export.graph.precision import MixedPrecision, narrowed
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset

# The newest operator set that TensorRT 10 and 11, OpenVINO and ONNX Runtime all take whole.
OPSET = 20
# The first whose convolution takes bfloat16; all that is used here is the same in both otherwise.
BFLOAT16_OPSET = 22
STAGES = (
    "pre_upsampler",
    "encoder",
    "auxiliary",
    "denoiser",
    "noise_predictor",
    "quantizer",
    "decoder",
)


class _Stage(nn.Module):
    """One stage as a module of its own, which is what can be traced."""

    def __init__(self, owner: nn.Module, method: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.owner = owner if dtype == torch.float32 else narrowed(owner, dtype)
        self.method, self.dtype = method, dtype

    def forward(self, *inputs: object) -> Tensor:
        """Compute the stage, from float32 to float32."""
        compute = getattr(self.owner, self.method)
        if self.dtype == torch.float32:
            return compute(*inputs)
        with MixedPrecision(self.dtype):
            return compute(*inputs).float()


def stages_of(preset: Preset) -> list[str]:
    """Those of `STAGES` that the preset's chain has."""
    networks = preset.networks
    there = {
        "auxiliary": "auxiliary" in networks,
        "noise_predictor": "noise_predictor" in networks,
        "quantizer": "autoencoder" in networks,
    }
    return [stage for stage in STAGES if there.get(stage, True)]


def stage_method(chain: Chain, preset: Preset, stage: str) -> tuple[nn.Module, str]:
    """The module that computes one of `STAGES`, and the name of its method."""
    quantizes = "quantizer" in stages_of(preset)
    methods = {
        "encoder": "encode",
        "quantizer": "nearest_codes",
        "decoder": "decode_quantized" if quantizes else "decode",
    }
    if stage in methods:
        return chain.codec, methods[stage]
    return getattr(chain, stage), "forward"


def trace_stage(
    chain: Chain,
    preset: Preset,
    stage: str,
    batch: int,
    tile: tuple[int, int],
    dtype: str = "float32",
) -> ir.Model:
    """Trace one of `STAGES` for a batch of tiles.

    The inputs of the denoiser and the noise predictor are their concatenated pictures, followed by
    the weights and biases that the timestep puts into the group norms.

    Args:
        chain: the networks.
        preset: gives the shapes.
        stage: which of `STAGES`.
        batch: tiles at once.
        tile: (height, width) of the input picture.
        dtype: "float32", or "float16" or "bfloat16" for what `lpnsr.export.graph.precision` makes
            of it.

    Returns:
        a graph whose inputs and output are float32.
    """
    height, width = tile
    owner, method = stage_method(chain, preset, stage)
    channels, factor = preset.latent_channels, 1
    if stage in ("pre_upsampler", "auxiliary", "encoder"):
        channels = 3
    if stage == "encoder":
        factor = preset.scale
    inputs: tuple[object, ...] = ()
    if stage in ("denoiser", "noise_predictor"):
        channels, inputs = owner.config.in_channels, (owner.modulation(torch.tensor([0])),)
    pictures = torch.zeros(batch, channels, height * factor, width * factor)
    # Once in float32: window tables that exist before tracing become constants of the graph. The
    # narrow form needs the same ones, and processors take minutes over float16 convolutions.
    with torch.no_grad():
        getattr(owner, method)(pictures, *inputs)
    return trace(_Stage(owner, method, getattr(torch, dtype)), (pictures, *inputs))


def trace(module: nn.Module, inputs: tuple[object, ...]) -> ir.Model:
    """Trace a module to an ONNX graph, fold all that is constant, apply the rewrites."""
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(
            module, inputs, dynamo=True, opset_version=OPSET, optimize=True, verbose=False
        )
        model = program.model
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
