"""Rewrites compute what they replace, and leave alone what they must not touch."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from selection import slow_but
from torch import nn

from lpnsr.export.graph import passes, trace
from lpnsr.export.graph.passes.blockwise_argmin import LONG, blockwise_argmin
from lpnsr.export.graph.passes.narrow_indices import narrow_indices
from lpnsr.export.graph.passes.upsample_phases import upsample_phases
from lpnsr.models.codecs import VQCodec, VQConfig


def run(model, x):
    proto = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(proto, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@pytest.fixture
def traced(monkeypatch):
    """Traces a module without rewriting it."""
    monkeypatch.setattr(passes, "rewrite", lambda model: None)
    return lambda module, x: trace.trace(module.eval(), (x,))


def operations(model):
    return [node.op_type for node in model.graph]


class Upsampled(nn.Module):
    """Upsampling by a factor, then a convolution."""

    def __init__(self, factor=2.0, mode="nearest", **options):
        super().__init__()
        options = {"kernel_size": 3, "padding": 1, **options}
        self.conv = nn.Conv2d(4, 8, **options)
        self.factor, self.mode = factor, mode

    def forward(self, x):
        return self.conv(nn.functional.interpolate(x, scale_factor=self.factor, mode=self.mode))


PICTURES = [(size, bias) for size in ((1, 1), (1, 5), (7, 3), (8, 16)) for bias in (True, False)]
QUICK_PICTURES = [((1, 1), True), ((1, 5), False), ((7, 3), True)]


@pytest.mark.parametrize(("size", "bias"), slow_but(QUICK_PICTURES, PICTURES))
def test_phases_are_the_upsampled_convolution(traced, size, bias):
    x = torch.randn(2, 4, *size)
    module = Upsampled(bias=bias)
    model = traced(module, x)
    assert upsample_phases(model) == 1
    assert "Resize" not in operations(model)
    assert operations(model).count("Conv") == 4
    torch.testing.assert_close(torch.from_numpy(run(model, x)), module(x), rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    "module",
    [
        Upsampled(factor=3.0),
        Upsampled(mode="bilinear"),
        Upsampled(stride=2),
        Upsampled(padding=0),
        Upsampled(padding=2, dilation=2),
        Upsampled(groups=2),
        Upsampled(kernel_size=5, padding=2),
    ],
    ids=["x3", "bilinear", "strided", "unpadded", "dilated", "grouped", "5x5"],
)
def test_other_upsampling_stays(traced, module):
    x = torch.randn(1, 4, 6, 10)
    model = traced(module, x)
    assert upsample_phases(model) == 0
    torch.testing.assert_close(torch.from_numpy(run(model, x)), module(x), rtol=0, atol=3e-6)


def test_an_upsampled_picture_with_two_users_stays(traced):
    class Twice(Upsampled):
        def forward(self, x):
            x = nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
            return self.conv(x).sum(1, keepdim=True) + x

    assert upsample_phases(traced(Twice(), torch.randn(1, 4, 6, 6))) == 0


class ArgMin(nn.Module):
    """Places of the minima along the last axis."""

    def __init__(self, keepdim=False):
        super().__init__()
        self.keepdim = keepdim

    def forward(self, x):
        return x.argmin(-1, keepdim=self.keepdim)


AXES = [(length, keepdim) for length in (LONG, 1031, 1155, 8192) for keepdim in (True, False)]
QUICK_AXES = [(LONG, True), (1031, False), (1155, True), (8192, False)]


@pytest.mark.parametrize(("length", "keepdim"), slow_but(QUICK_AXES, AXES))
def test_blockwise_argmin_takes_the_first_of_equal_values(traced, length, keepdim):
    # Few different values: most minima are there many times, in many blocks.
    x = torch.randint(0, 5, (2, 3, 7, length)).float()
    x[0, 0, 0] = torch.arange(length, 0, -1)
    x[0, 0, 1] = torch.arange(length)
    module = ArgMin(keepdim)
    model = traced(module, x)
    assert blockwise_argmin(model) == 1
    np.testing.assert_array_equal(run(model, x), x.numpy().argmin(-1, keepdims=keepdim))


def test_a_short_argmin_stays(traced):
    assert blockwise_argmin(traced(ArgMin(), torch.randn(2, LONG - 1))) == 0


def test_tables_of_indices_are_narrow(traced):
    order = torch.randperm(6)
    gather = traced(Shuffled(order), torch.randn(2, 6))
    assert narrow_indices(gather) == 1
    types = {value.const_value.dtype for value in gather.graph.initializers.values()}
    assert types == {ir.DataType.INT32}
    x = torch.randn(2, 6)
    torch.testing.assert_close(torch.from_numpy(run(gather, x)), x[:, order])


def test_a_table_that_is_more_than_indices_stays(traced):
    model = traced(Shuffled(torch.randperm(6), keeps=True), torch.randn(2, 6))
    assert narrow_indices(model) == 0


class Shuffled(nn.Module):
    """Sorts columns; with `keeps`, the table is an operand too."""

    def __init__(self, order, keeps=False):
        super().__init__()
        self.order, self.keeps = order, keeps

    def forward(self, x):
        shuffled = x.index_select(1, self.order)
        return shuffled + self.order * x.argmin(dim=1, keepdim=True) if self.keeps else shuffled


def test_every_pass_finds_its_place_in_the_autoencoder(traced):
    codec = VQCodec(VQConfig(channels=32, multipliers=(1, 1, 1), blocks=1, codes=2048)).eval()
    codec.forward = codec.decode
    latent = torch.randn(1, 3, 16, 24)
    model = traced(codec, latent)
    assert (upsample_phases(model), blockwise_argmin(model)) == (2, 1)
    torch.testing.assert_close(
        torch.from_numpy(run(model, latent)), codec.decode(latent), rtol=0, atol=3e-5
    )
