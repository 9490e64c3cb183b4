import pytest
import torch

from lpnsr.models.windows import (
    WindowAttention,
    relative_position_index,
    resshift_mask,
    swin_mask,
    window_order,
)

SIZES = [(16, 16), (16, 24), (32, 16)]
WINDOW, SHIFT = 8, 4


def original_positions(height, width, shift):
    """Row and column of each token, in the order of windows: (windows, window²) each."""
    order, _ = window_order(height, width, WINDOW, shift)
    order = order.reshape(-1, WINDOW * WINDOW)
    return order // width, order % width


@pytest.mark.parametrize("shift", [0, SHIFT])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_order_is_roll_and_partition(height, width, shift):
    order, inverse = window_order(height, width, WINDOW, shift)
    rolled = torch.arange(height * width).reshape(height, width).roll((-shift, -shift), (0, 1))
    windows = [
        rolled[row : row + WINDOW, column : column + WINDOW].flatten()
        for row in range(0, height, WINDOW)
        for column in range(0, width, WINDOW)
    ]
    assert order.equal(torch.cat(windows))
    assert order[inverse].equal(torch.arange(height * width))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_swin_mask_allows_only_true_neighbours(height, width):
    rows, columns = original_positions(height, width, SHIFT)
    near = [(p[:, :, None] - p[:, None, :]).abs() < WINDOW for p in (rows, columns)]
    mask = swin_mask(height, width, WINDOW, SHIFT)
    assert mask.shape == (height * width // 64, 1, 64, 64)
    assert (mask[:, 0] == 0).equal(near[0] & near[1])
    assert set(mask.unique().tolist()) == {-100.0, 0.0}


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resshift_mask_splits_the_last_row_of_windows_by_columns(height, width):
    mask = resshift_mask(height, width, WINDOW, SHIFT)
    assert mask.shape == (height * width // 64, 1, 64, 64)
    last_row = mask[-width // WINDOW :, 0]
    assert (mask[: -width // WINDOW] == 0).all()
    right = torch.arange(64) % WINDOW >= WINDOW - SHIFT
    expected = torch.where(right[:, None] == right, 0.0, -100.0)
    assert (last_row == expected).all()


def test_position_index_depends_on_the_offset_alone():
    index = relative_position_index(WINDOW).reshape(64, 64)
    rows, columns = torch.arange(64) // WINDOW, torch.arange(64) % WINDOW
    offset = 100 * (rows[:, None] - rows) + columns[:, None] - columns
    pairs = set(zip(offset.flatten().tolist(), index.flatten().tolist(), strict=True))
    assert len(pairs) == len(set(index.flatten().tolist())) == 15**2
    assert sorted(index.unique().tolist()) == list(range(15**2))
    assert index[0, 0] == 15**2 // 2
    assert index[0, 63] == 0 and index[63, 0] == 15**2 - 1


def test_tables_are_computed_once():
    for table in (swin_mask, resshift_mask, window_order):
        assert table(16, 16, WINDOW, SHIFT) is table(16, 16, WINDOW, SHIFT)
        assert table(16, 16, WINDOW, SHIFT) is not table(16, 24, WINDOW, SHIFT)


@pytest.mark.parametrize(("shift", "token"), [(0, (5, 13)), (SHIFT, (5, 10)), (SHIFT, (0, 0))])
@torch.no_grad()
def test_attention_stays_inside_its_window(shift, token):
    torch.manual_seed(0)
    height, width = 16, 24
    attention = WindowAttention(8, 2, WINDOW, shift, swin_mask)
    tokens = torch.randn(1, height * width, 8)
    changed = tokens.clone()
    changed[0, token[0] * width + token[1]] += 1.0
    difference = attention(changed, height, width) - attention(tokens, height, width)
    reached = (difference[0].abs().amax(dim=1) > 1e-6).reshape(height, width)

    rows, columns = torch.arange(height), torch.arange(width)
    same_row = (rows + shift) // WINDOW == (token[0] + shift) // WINDOW
    same_column = (columns + shift) // WINDOW == (token[1] + shift) // WINDOW
    assert reached.equal(same_row[:, None] & same_column)


@torch.no_grad()
def test_attention_uses_the_position_bias():
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, WINDOW, 0, swin_mask)
    tokens = torch.randn(1, 64, 8)
    before = attention(tokens, 8, 8)
    attention.relative_position_bias_table[15**2 // 2] += 50.0
    itself = attention.proj(attention.qkv(tokens)[..., 16:])
    assert not torch.allclose(before, itself, atol=1e-3)
    torch.testing.assert_close(attention(tokens, 8, 8), itself, rtol=1e-4, atol=1e-5)
