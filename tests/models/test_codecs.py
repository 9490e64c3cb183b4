import torch

from lpnsr.models.codecs import VQCodec, VQConfig


def test_gradients_pass_the_quantisation_as_if_it_were_not_there():
    torch.manual_seed(0)
    codec = VQCodec(VQConfig(channels=32, multipliers=(1, 1, 1), blocks=1, codes=16))
    latent = torch.randn(1, 3, 4, 4)
    expected = codec.decode(latent)
    codes = codec.nearest_codes(latent).detach().requires_grad_()
    codec.decode_quantized(codes).square().sum().backward()

    latent.requires_grad_()
    picture = codec.decode(latent)
    torch.testing.assert_close(picture, expected, atol=1e-4, rtol=1e-4)
    picture.square().sum().backward()
    torch.testing.assert_close(latent.grad, codes.grad, atol=1e-3, rtol=1e-3)
