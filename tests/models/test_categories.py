import pytest
import torch

from lpnsr.models.categories import category_order


@pytest.mark.parametrize(("batch", "tokens", "categories"), [(1, 256, 8), (3, 4096, 64)])
def test_ties_keep_the_order_of_positions(batch, tokens, categories):
    torch.manual_seed(0)
    category = torch.randint(categories, (batch, tokens)) // 2  # the upper half stays empty
    order, inverse = category_order(category, categories)
    expected = category.argsort(dim=1, stable=True) + torch.arange(batch)[:, None] * tokens
    assert order.equal(expected.flatten())
    assert order[inverse].equal(torch.arange(batch * tokens))


def test_one_category_leaves_the_tokens_in_place():
    category = torch.full((2, 128), 5)
    order, inverse = category_order(category, 6)
    assert order.equal(torch.arange(256))
    assert inverse.equal(order)


def test_counts_stay_exact_for_large_pictures():
    """Sums of ones are exact in float32 up to 2**24 tokens; here are 2**16."""
    category = torch.arange(2**16)[None] % 3
    order, _ = category_order(category, 64)
    assert order.equal(category[0].argsort(stable=True))
