"""Each network traced once, to an ONNX graph of static shape."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import onnx_ir as ir
import onnxscript.optimizer
import torch
from torch import Tensor, nn

from lpnsr.export import passes
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset

# The newest operator set that TensorRT 10 and 11, OpenVINO and ONNX Runtime all take whole.
OPSET = 20
STAGES = (
    "pre_upsampler",
    "encoder",
    "auxiliary",
    "denoiser",
    "noise_predictor",
    "quantizer",
    "decoder",
)


class _Method(nn.Module):
    """One method of a module as a module of its own, which is what can be traced."""

    def __init__(self, owner: nn.Module, method: Callable[..., Tensor]) -> None:
        super().__init__()
        self.owner, self.method = owner, method

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call the method."""
        return self.method(*inputs)


def stages_of(preset: Preset) -> list[str]:
    """Those of `STAGES` that the preset's chain has."""
    networks = preset.networks
    there = {
        "auxiliary": "auxiliary" in networks,
        "noise_predictor": "noise_predictor" in networks,
        "quantizer": "autoencoder" in networks,
    }
    return [stage for stage in STAGES if there.get(stage, True)]


def trace_stage(
    chain: Chain, preset: Preset, stage: str, batch: int, tile: tuple[int, int]
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
    """
    height, width = tile
    scale, latent = preset.scale, preset.latent_channels

    def blank(channels: int, factor: int = 1) -> Tensor:
        return torch.zeros(batch, channels, height * factor, width * factor)

    if stage in ("pre_upsampler", "auxiliary"):
        return trace(getattr(chain, stage), (blank(3),))
    if stage == "encoder":
        return trace(_Method(chain.codec, chain.codec.encode), (blank(3, scale),))
    if stage == "quantizer":
        return trace(_Method(chain.codec, chain.codec.nearest_codes), (blank(latent),))
    if stage == "decoder":
        codec = chain.codec
        decode = codec.decode_quantized if "quantizer" in stages_of(preset) else codec.decode
        return trace(_Method(codec, decode), (blank(latent),))
    unet = getattr(chain, stage)
    modulation = unet.modulation(torch.tensor([0]))
    return trace(unet, (blank(unet.config.in_channels), modulation))


def trace(module: nn.Module, inputs: tuple[object, ...]) -> ir.Model:
    """Trace a module to an ONNX graph, fold all that is constant, apply the rewrites."""
    with torch.no_grad(), _quiet():
        # Window tables that exist before tracing become constants of the graph.
        module(*inputs)
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
