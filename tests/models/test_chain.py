"""The eager chain on small networks: what it calls, and with what."""

import pickle

import pytest
import torch

from lpnsr.models import presets
from lpnsr.models.chain import Chain
from lpnsr.models.codecs import PixelCodec
from lpnsr.models.families import residual_shift
from lpnsr.models.presets import get_preset
from lpnsr.models.schedule import Schedule


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    return get_preset("lpnsr-tiny").build()


class Recorder(torch.nn.Module):
    """Stands for a Swin-UNet: records its calls and returns `value`, broadcast."""

    def __init__(self, channels, *values):
        super().__init__()
        self.channels, self.values, self.calls = channels, values, []

    def modulation(self, timestep):
        return timestep

    def forward(self, x, timestep):
        self.calls.append((int(timestep), x))
        part = torch.ones(x.shape[0], self.channels, *x.shape[2:])
        return torch.cat([part * value for value in self.values], dim=1)


def recorded(schedule, x0=0.25, mean=0.5, logvar=0.0):
    denoiser, predictor = Recorder(48, x0), Recorder(48, mean, logvar)
    up = torch.nn.Upsample(scale_factor=4)
    return assemble(schedule, up, denoiser, predictor)


def assemble(schedule, up, denoiser, predictor=None):
    """A chain on rearranged pictures."""
    networks = {"pre_upsampler": up, "autoencoder": PixelCodec(), "denoiser": denoiser}
    if predictor:
        networks["noise_predictor"] = predictor
    return Chain(schedule, residual_shift(set(networks) - {"autoencoder"}), networks)


def test_who_is_called_when():
    schedule = Schedule()
    chain = recorded(schedule)
    lr, noise = torch.rand(2, 3, 8, 8), torch.randn(4, 2, 48, 8, 8)
    x0 = chain.reverse(chain.encode(lr), lr, noise)
    assert [t for t, _ in chain.denoiser.calls] == [3, 2, 1, 0]
    assert [t for t, _ in chain.noise_predictor.calls] == [3, 2, 1]
    assert (x0 == 0.25).all()

    x = chain.encode(lr) + schedule.start_noise * noise[0]
    for k, (_, picture) in enumerate(chain.noise_predictor.calls, start=1):
        step = schedule.reverse_steps()[k - 1]
        given = torch.cat([x, torch.full_like(x, 0.25), lr], dim=1)
        torch.testing.assert_close(picture, given)
        normalised = torch.cat([x * step.input_scale, lr], dim=1)
        torch.testing.assert_close(chain.denoiser.calls[k - 1][1], normalised)
        x = step.state * x + step.prediction * 0.25 + step.noise * (0.5 + noise[k])


def test_log_variance_is_clamped():
    chain = recorded(Schedule(steps=2), logvar=1e6)
    step = chain.schedule.reverse_steps()[0]
    state = torch.zeros(1, 48, 8, 8)
    stage, lr = chain.stage("noise_predictor"), torch.zeros(1, 3, 8, 8)
    _, logvar = chain.compute(stage, step, state, state, lr)
    assert (logvar == 20.0).all()


def test_a_wrong_number_of_draws_is_an_error():
    chain = recorded(Schedule())
    lr = torch.zeros(1, 3, 8, 8)
    for draws in (3, 5):
        with pytest.raises(ValueError):
            chain(lr, torch.zeros(draws, 1, 48, 8, 8))


def test_output_is_clamped():
    lr, noise = torch.zeros(1, 3, 8, 8), torch.zeros(4, 1, 48, 8, 8)
    assert (recorded(Schedule(), x0=7.0)(lr, noise) == 1.0).all()
    assert (recorded(Schedule(), x0=-7.0)(lr, noise) == -1.0).all()


def test_a_batch_is_its_pictures_alone(tiny):
    lr, noise = torch.rand(2, 3, 16, 32) * 2 - 1, torch.randn(4, 2, 48, 16, 32)
    together = tiny(lr, noise)
    assert together.shape == (2, 3, 64, 128)
    for row in range(2):
        one = slice(row, row + 1)
        torch.testing.assert_close(tiny(lr[one], noise[:, one]), together[one], rtol=0, atol=1e-4)


def test_noise_matters(tiny):
    lr = torch.rand(1, 3, 16, 16) * 2 - 1
    noise = torch.randn(4, 1, 48, 16, 16)
    expected = tiny(lr, noise)
    for draw in range(4):
        changed = noise.clone()
        changed[draw] = torch.randn(1, 48, 16, 16)
        assert (tiny(lr, changed) - expected).abs().max() > 1e-4, draw


def test_pixel_codec_is_lossless():
    picture = torch.rand(2, 3, 8, 16)
    codec = PixelCodec()
    assert codec.encode(picture).shape == (2, 48, 2, 4)
    assert codec.decode(codec.encode(picture)).equal(picture)


@pytest.mark.parametrize("preset", [*presets.PRESETS.values()], ids=[*presets.PRESETS])
def test_a_process_can_be_given_the_stages(preset):
    """As benchmarks do, which start eager PyTorch in a process of its own."""
    assert pickle.loads(pickle.dumps(preset.stages)) == preset.stages
