"""Drawn pictures: the same from the same seed, and of the kinds that photographs lack."""

import numpy as np
from PIL import Image

from lpnsr.models.training import cli


def draw(folder, *options):
    return cli.main(["draw", "-o", str(folder), *map(str, options)])


def pictures(folder):
    return [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]


def test_the_same_seed_draws_the_same(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert draw(tmp_path / name, "--count", 3, "--seed", seed) == 0
    first, again, other = (pictures(tmp_path / name) for name in "abc")
    assert [picture.shape for picture in first] == [(512, 512, 3)] * 3
    assert all(map(np.array_equal, first, again))
    assert not any(map(np.array_equal, first, other))


def test_large_areas_are_flat(tmp_path):
    assert draw(tmp_path / "drawn", "--count", 8) == 0
    shares = [np.mean(np.diff(p.astype(int), axis=1) == 0) for p in pictures(tmp_path / "drawn")]
    assert np.median(shares) > 0.8


def test_some_are_full_of_fine_strokes(tmp_path):
    assert draw(tmp_path / "drawn", "--count", 8) == 0
    drawn = np.stack(pictures(tmp_path / "drawn")).astype(int)
    equal = (np.diff(drawn, axis=2, append=0) == 0).all(axis=3)
    flat = equal.reshape(8, 16, 32, 16, 32).mean((2, 4))  # share of each block
    busy = np.quantile(flat, 0.25, axis=(1, 2)) < 0.7
    assert 1 <= busy.sum() <= 6


def test_bad_folders_are_refused(tmp_path, capsys):
    assert draw(tmp_path) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "fonts").mkdir()
    assert draw(tmp_path / "drawn", "--fonts", tmp_path / "fonts") == 2
    assert "no TrueType fonts" in capsys.readouterr().err
    assert not (tmp_path / "drawn").exists()
