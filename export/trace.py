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

from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset

# The newest operator set that TensorRT 10 and 11, OpenVINO and ONNX Runtime all take whole.
OPSET = 20
STAGES = ("pre_upsampler", "encoder", "auxiliary", "denoiser", "noise_predictor", "decoder")
OPTIONAL = ("auxiliary", "noise_predictor")


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
    return [stage for stage in STAGES if stage not in OPTIONAL or stage in preset.networks]


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
    if stage == "decoder":
        return trace(_Method(chain.codec, chain.codec.decode), (blank(latent),))
    unet = getattr(chain, stage)
    modulation = unet.modulation(torch.tensor([0]))
    return trace(unet, (blank(unet.config.in_channels), modulation))


def trace(module: nn.Module, inputs: tuple[object, ...]) -> ir.Model:
    """Trace a module to an ONNX graph with all that is constant folded."""
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
