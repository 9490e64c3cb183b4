"""Group norms and attention on every width of vectors, against PyTorch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lpnsr.kernels import operators

pytestmark = pytest.mark.skipif(operators.library() is None, reason="built without vector types")


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(
    ("groups", "channels", "plane"), [(1, 1, 2), (2, 6, 35), (4, 4, 64), (3, 12, 5000)]
)
@pytest.mark.parametrize("swish", [False, True])
@pytest.mark.parametrize("mean", [0.0, 300.0])
def test_is_a_group_norm(lanes, groups, channels, plane, swish, mean):
    if not operators.has_lanes(lanes):
        pytest.skip(f"no vectors of {lanes} floats here")
    made = np.random.default_rng(0)
    x = made.standard_normal((channels, plane), np.float32) * 3 + np.float32(mean)
    weight, bias = 10 * made.standard_normal((2, channels), np.float32)
    found = operators.group_norm(x, weight, bias, groups, 1e-5, swish, lanes)
    given = [torch.from_numpy(a).double() for a in (x[None], weight, bias)]
    exact = F.group_norm(given[0], groups, *given[1:], eps=1e-5)
    exact = (F.silu(exact) if swish else exact)[0].numpy()
    assert np.linalg.norm(found - exact) <= 1e-6 * (1 + mean / 10) * np.linalg.norm(exact)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_swish_of_large_and_small_values(lanes):
    if not operators.has_lanes(lanes):
        pytest.skip(f"no vectors of {lanes} floats here")
    plain = np.array([[-1.0, 1.0]], np.float32)  # has mean 0 and variance 1
    for factor in (0.0, 1e-30, 1e-3, 1.0, 20.0, 80.0, 90.0, 1e4, 1e30):
        weight, bias = np.array([factor], np.float32), np.zeros(1, np.float32)
        found = operators.group_norm(plain, weight, bias, 1, 0.0, True, lanes)
        exact = F.silu(torch.from_numpy(plain * weight).double()).numpy()
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-35 * factor)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(
    ("windows", "area", "heads", "width"),
    [(3, 64, 2, 30), (2, 16, 3, 32), (1, 32, 1, 7), (2, 80, 2, 50)],
)
@pytest.mark.parametrize("has_mask", [False, True])
def test_is_attention(lanes, windows, area, heads, width, has_mask):
    if not operators.has_lanes(lanes):
        pytest.skip(f"no vectors of {lanes} floats here")
    made = np.random.default_rng(0)
    tokens = made.standard_normal((windows, area, 3 * heads * width), np.float32)
    bias = made.standard_normal((heads, area, area), np.float32)
    masked = np.where(made.random((windows, area, area)) < 0.3, -100, 0).astype(np.float32)
    found = operators.attention(tokens, 0.3, bias, masked if has_mask else None, lanes)
    split = torch.from_numpy(tokens).double().unflatten(-1, (3, heads, width))
    query, key, value = split.permute(2, 0, 3, 1, 4)
    scores = 0.3 * query @ key.transpose(-1, -2) + torch.from_numpy(bias)
    scores = scores + torch.from_numpy(masked)[:, None] if has_mask else scores
    exact = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2).numpy()
    assert np.linalg.norm(found - exact) < 1e-6 * np.linalg.norm(exact)


def test_unknown_width_is_refused():
    ones = np.ones(1, np.float32)
    with pytest.raises(ValueError, match="no vectors of 5 floats"):
        operators.group_norm(ones[None], ones, ones, 1, 1e-5, lanes=5)
    with pytest.raises(ValueError, match="no vectors of 5 floats"):
        operators.attention(np.ones((1, 16, 3)), 1.0, np.ones((1, 16, 16)), lanes=5)
