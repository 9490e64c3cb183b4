"""No picture pays for pixels that it does not need."""

from math import prod

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.tiles import tiling
from lpnsr.runtime.tiles.layout import ABUTTING, LIMIT, OVERLAPS, choose

SMALL, FULL = [(64, 64, 1)], [(64, 64, 1), (128, 128, 1), (192, 192, 1)]
sides = st.one_of(st.integers(1, 600), st.integers(1, 12_000))


def graphs(shapes):
    return [Graph(f"{h}x{w}-{b}", (h, w), b, {}) for h, w, b in shapes]


def padded(size):
    return prod(-(-side // 64) * 64 for side in size)


@settings(max_examples=500, deadline=None)
@given(sides, sides, st.sampled_from([SMALL, FULL]))
@example(128, 128, SMALL)
@example(192, 192, SMALL)
@example(192, 256, FULL)
@example(65, 65, SMALL)
def test_at_most_1_6_times_the_padded_picture(height, width, shapes):
    size = height, width
    found = choose(graphs(shapes), size)
    if max(size) <= 64:
        assert (found.tiles, found.graph.tile) == (1, (64, 64))
    else:
        assert found.pixels <= LIMIT * padded(size)
    counts = map(tiling.count, size, found.graph.tile, found.overlaps)
    assert prod(counts) * prod(found.graph.tile) == found.pixels


@settings(max_examples=200, deadline=None)
@given(sides, sides)
def test_no_graph_and_no_overlap_costs_less(height, width):
    size, available = (height, width), graphs(FULL)
    found = choose(available, size)
    assert found.pixels <= min(
        choose([graph], size, overlap).pixels for graph in available for overlap in OVERLAPS
    )


@settings(max_examples=300, deadline=None)
@given(sides, sides)
def test_three_tile_sizes_always_overlap(height, width):
    assert min(choose(graphs(FULL), (height, width)).overlaps) >= min(OVERLAPS)


def test_the_built_in_model_has_these_three():
    found = Bundle.open(BUILTIN).manifest.graphs
    assert [(*graph.tile, graph.batch) for graph in found] == FULL


@pytest.mark.parametrize(
    ("size", "chosen"),
    [
        ((10, 10), ("64x64-1", 1)),
        ((64, 65), ("64x128-1", 1)),  # as many pixels as two of 64x64, and no seam
        ((65, 64), ("64x64-1", 2)),
        ((65, 65), ("64x128-1", 2)),  # 128x128 would be cheaper without a batch to fill
        ((500, 500), ("64x64-1", 81)),
    ],
)
def test_the_graph_follows_the_size(size, chosen):
    shapes = [(128, 128, 4), (128, 128, 2), (64, 128, 1), (64, 64, 2), (64, 64, 1)]
    found = choose(graphs(shapes), size)
    assert (found.graph.file, found.tiles) == chosen


def test_more_overlap_at_the_same_price():
    (graph,) = graphs(SMALL)
    assert choose([graph], (64, 112)).overlaps == (16, 16)
    assert choose([graph], (64, 120)).overlaps == (16, 8)
    assert choose([graph], (64, 128)).overlaps == (16, 16)
    assert choose([graph], (128, 128)).overlaps in ((16, ABUTTING), (ABUTTING, 16))


def test_an_overlap_that_was_asked_for_is_kept():
    found = choose(graphs(FULL), (128, 192), 32)
    assert found.overlaps == (32, 32)
    assert choose(graphs(SMALL), (128, 128), 16).tiles == 9


def test_tiles_too_small_to_overlap_abut():
    found = choose(graphs([(8, 8, 1)]), (16, 8))
    assert (found.tiles, found.overlaps) == (2, (ABUTTING, ABUTTING))
