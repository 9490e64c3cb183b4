import pytest
import torch
import torch.nn.functional as F

from lpnsr.models.bicubic import Bicubic


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (16, 24)])
def test_it_is_torchs_bicubic_up_to_the_borders(scale, size):
    torch.manual_seed(0)
    lr = torch.rand(2, 3, *size) * 2 - 1
    expected = F.interpolate(lr, scale_factor=scale, mode="bicubic", align_corners=False)
    torch.testing.assert_close(Bicubic(scale)(lr), expected, rtol=0, atol=2e-6)


def test_it_has_no_weights():
    assert not Bicubic(4).state_dict()
