"""The authors' procedure gives what ours gives, with more work."""

import numpy as np
import pytest
import torch

from lpnsr.benchmarks import authors, count


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(0)
    lr = torch.rand(1, 3, 16, 16, generator=generator) * 2 - 1
    return lr, torch.randn(2, 1, 3, 16, 16, generator=generator)


def test_same_result_with_one_call_more(micro, inputs):
    calls = []
    predictor = micro.chain.noise_predictor
    with predictor.register_forward_hook(lambda *_: calls.append("predictor")):
        torch.testing.assert_close(authors.sample(micro.chain, *inputs), micro.chain(*inputs))
    assert len(calls) == 2 + 1
    ours = count.eager(lambda: micro.chain(*inputs))
    assert count.eager(lambda: authors.sample(micro.chain, *inputs)) > ours


@pytest.mark.parametrize(
    ("size", "pixels"),
    [
        ((64, 64), 64 * 64),
        ((65, 129), 128 * 256),
        ((256, 100), 256 * 128),
        # Three tiles that overlap by half along the longer side.
        ((512, 256), 3 * 256 * 256),
        ((300, 300), 9 * 256 * 256),
    ],
)
def test_pixels_that_the_networks_see(size, pixels):
    assert authors.processed(size) == pixels


def test_whole_pictures_keep_their_size_and_colours(micro, monkeypatch):
    monkeypatch.setattr(authors, "TILE", 64)
    monkeypatch.setattr(authors, "STRIDE", 32)

    def nearest(chain, lr, noise):
        seen.append(tuple(lr.shape[2:]))
        return torch.nn.functional.interpolate(lr, scale_factor=4)

    seen = []
    monkeypatch.setattr(authors, "sample", nearest)
    picture = np.random.default_rng(0).integers(0, 256, (70, 40, 3), np.uint8)
    upscaled = authors.upscale(micro.chain, picture)
    assert upscaled.shape == (280, 160, 3)
    assert seen == [(64, 64)] * 3
    assert np.abs(upscaled[2::4, 2::4].astype(int) - picture).mean() < 8
