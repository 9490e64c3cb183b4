import numpy as np
import pytest
import torch

from lpnsr.models import color_fix
from lpnsr.runtime.pictures import color as runtime_color


@pytest.mark.parametrize("limit", [np.inf, 0.125])
def test_it_is_the_colour_fix_of_the_runtime(limit):
    random = np.random.default_rng(0)
    lr = random.uniform(-0.5, 0.5, (14, 20, 3)).astype(np.float32)
    sr = random.uniform(-0.5, 0.5, (56, 80, 3)).astype(np.float32)
    found = color_fix.correct(_tensor(sr), _tensor(lr), limit)[0].permute(1, 2, 0).numpy()
    expected = runtime_color.correct(sr, lr, limit)
    np.testing.assert_allclose(found.clip(-1, 1), expected, atol=2e-6)


def test_gradients_pass():
    lr = torch.zeros(1, 3, 16, 16)
    sr = torch.randn(1, 3, 64, 64, requires_grad=True)
    color_fix.correct(sr, lr).square().mean().backward()
    assert sr.grad.abs().sum() > 0


def _tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None]
