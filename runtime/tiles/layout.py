"""Chooses the tiles for a picture, so that no more pixels are processed than necessary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

from lpnsr.runtime.manifest import Graph
from lpnsr.runtime.tiles import tiling
from lpnsr.runtime.tiles.tiling import ALIGNMENT

OVERLAPS = (16, 8)
"""Least overlaps of tiles in input pixels to choose from."""

ABUTTING = 0
"""Overlap along an axis where any other would exceed `LIMIT`."""

LIMIT, UNIT = 1.6, 64
"""Processed pixels at most, as a multiple of the picture's with its sides padded to `UNIT`."""


@dataclass(frozen=True)
class TileLayout:
    """How a picture is cut.

    Attributes:
        graph: the graph that upscales the tiles.
        overlaps: (rows, columns) that neighbouring tiles share at least, in input pixels.
        tiles: number of tiles.
    """

    graph: Graph
    overlaps: tuple[int, int]
    tiles: int

    def __str__(self) -> str:
        height, width = self.graph.tile
        return f"tile {height}x{width} batch {self.graph.batch}"

    @property
    def pixels(self) -> int:
        """Input pixels that the graph is given, tiles that only fill the last batch included."""
        batches = -(-self.tiles // self.graph.batch)
        return batches * self.graph.pixels


def choose(
    graphs: Sequence[Graph], size: tuple[int, int], overlap: int | None = None
) -> TileLayout:
    """Choose the layout with the fewest processed pixels.

    Ties go to more overlap, then to larger tiles, then to smaller batches.

    Args:
        graphs: to choose from.
        size: (height, width) of the picture.
        overlap: least overlap of tiles in input pixels; by default one of `OVERLAPS`, or none if
            these would exceed `LIMIT`.

    Raises:
        ValueError: the overlap does not suit any of the tiles.
    """
    if overlap is not None:
        return min(_layouts(graphs, size, [overlap]), key=_rank)
    everything = list(_layouts(graphs, size, [*OVERLAPS, ABUTTING]))
    limit = LIMIT * prod(-(-side // UNIT) * UNIT for side in size)
    overlapping = [layout for layout in everything if min(layout.overlaps) > ABUTTING]
    best = min(overlapping or everything, key=_rank)
    if best.tiles == 1 or best.pixels <= limit:
        return best
    within = [layout for layout in everything if layout.pixels <= limit]
    # Here overlap matters more than pixels: tiles that merely abut may leave a visible seam.
    return max(within, key=lambda layout: (sum(layout.overlaps), -layout.pixels), default=best)


def _layouts(
    graphs: Sequence[Graph], size: tuple[int, int], overlaps: Sequence[int]
) -> Iterator[TileLayout]:
    for graph in graphs:
        fitting = [overlap for overlap in overlaps if overlap <= min(graph.tile) - ALIGNMENT]
        for pair in product(fitting, repeat=2):
            counts = map(tiling.count, size, graph.tile, pair)
            yield TileLayout(graph, (pair[0], pair[1]), prod(counts))


def _rank(layout: TileLayout) -> tuple[int, int, int, int]:
    graph = layout.graph
    return layout.pixels, -sum(layout.overlaps), -prod(graph.tile), graph.batch
