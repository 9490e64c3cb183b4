import argparse

import pytest

from lpnsr.runtime.tiles.sizes import parse_tile


@pytest.mark.parametrize(
    ("text", "tile"), [("64", (64, 64)), ("128x64", (128, 64)), ("64x192", (64, 192))]
)
def test_a_tile_is_height_times_width(text, tile):
    assert parse_tile(text) == tile


WRONG = ("", "x", "64x", "x64", "064", "6 4", "64X64", "64\n", "٦٤", "-64", "0", "0x0", "64x0")
UNEVEN = ("60", "64x60", "60x64")


@pytest.mark.parametrize("text", [*WRONG, *UNEVEN, "64x64x64", "8" * 5000])
def test_what_is_no_tile(text):
    with pytest.raises(argparse.ArgumentTypeError, match=r"is not a tile size|multiples of 8"):
        parse_tile(text)
