import numpy as np
import pytest
import torch

from lpnsr.models.training.discriminator import PatchDiscriminator
from lpnsr.models.training.losses import (
    GradientFrequencyLoss,
    discriminator_loss,
    generator_loss,
    perceptual_loss,
    pixel_loss,
)


def texture(seed):
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(seed)) / 4


def test_the_perceptual_term_asks_for_texture_where_l1_asks_for_none():
    original, other, flat = texture(0), texture(1), torch.zeros(2, 3, 64, 64)
    perceptual, pixel = GradientFrequencyLoss(), pixel_loss("l1")
    assert perceptual(original, original) == 0
    assert pixel(flat, original) < pixel(other, original)
    # Twice the distance in gradients, but the right spectrum.
    found = [perceptual(picture, original) for picture in (other, flat)]
    assert found[0] < 1.2 * found[1]
    weak = perceptual(original / 2, original)
    assert weak < found[1]


def test_the_perceptual_term_has_a_gradient_everywhere():
    picture = torch.zeros(1, 3, 32, 32, requires_grad=True)
    GradientFrequencyLoss()(picture, texture(0)[:1, :, :32, :32]).backward()
    assert picture.grad.isfinite().all()


@pytest.mark.parametrize(("name", "expected"), [("l1", 0.3), ("l2", 0.09), ("charbonnier", 0.3)])
def test_pixel_losses(name, expected):
    loss = pixel_loss(name)(torch.full((2, 3), 0.3), torch.zeros(2, 3))
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_psnr_loss_counts_each_picture_by_its_decibels():
    errors = torch.tensor([0.3, 0.03])[:, None, None].expand(2, 3, 4)
    loss = pixel_loss("psnr")(errors, torch.zeros(2, 3, 4))
    decibels = 10 * torch.tensor([4 / 0.09, 4 / 0.0009]).log10()  # of values from -1 to 1
    assert loss.item() == pytest.approx(
        np.log(4) - decibels.mean().item() * np.log(10) / 10, rel=1e-4
    )


def test_hinge_losses():
    sure, wrong = torch.tensor([2.0, 2.0]), torch.tensor([-2.0, -2.0])
    assert discriminator_loss(wrong, sure) == 0
    assert discriminator_loss(sure, wrong) == 3
    assert generator_loss(sure) < generator_loss(wrong)


def test_every_convolution_of_the_discriminator_is_spectrally_normalised():
    torch.manual_seed(0)
    discriminator = PatchDiscriminator(channels=8)
    for _ in range(50):  # each call improves the estimate of the norm
        verdicts = discriminator(texture(0))
    assert verdicts.shape[:2] == (2, 1)
    convolutions = [m for m in discriminator if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 5
    for convolution in convolutions:
        norm = torch.linalg.matrix_norm(convolution.weight.flatten(1), ord=2)
        assert norm.item() == pytest.approx(1, rel=0.05)


def test_small_latents_are_compared_at_fewer_scales():
    latents = torch.rand(2, 4, 8, 8)
    term, note = perceptual_loss(torch.device("cpu"), latent=True)
    assert "no LPIPS of latents" in note
    assert term(latents, latents) == 0
    assert term(latents, latents.flip(-1)) > 0
