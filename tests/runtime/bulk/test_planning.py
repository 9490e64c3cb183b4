"""How inputs are listed and cut into shards."""

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fsspec", reason="needs the extra bulk")

from lpnsr.runtime.bulk import planning
from lpnsr.runtime.bulk.plan import Plan, RunOptions
from lpnsr.runtime.bulk.storage import Folder
from lpnsr.runtime.command.recipe import Recipe

from .conftest import fill


@pytest.fixture
def make(tmp_path):
    """Plans a run over a folder; returns it, its rows shard by shard, and what was left out."""

    def call(folder, megapixels=1000.0, output="out", **options):
        empty = Plan(
            str(folder), str(tmp_path / output), "bundle", "0", "version", RunOptions(**options)
        )
        run, warnings = Folder(str(tmp_path / "run")), []
        plan = planning.make(empty, run, megapixels, warnings.append)
        assert Plan.read(run) == plan
        return plan, [plan.rows(run, shard) for shard in range(len(plan.shards))], warnings

    return call


def test_shards_have_equal_output_pixels(tmp_path, make, monkeypatch):
    """Within a picture, whatever the sizes and options."""
    rng, sizes = np.random.default_rng(0), {}
    for number in range(300):
        height, width = rng.integers(1, 100, 2)
        name = f"{number:03}.png"
        Image.new("RGB", (width, height)).save(tmp_path / name)
        sizes[name] = 2 * int(height) * 2 * int(width)
    monkeypatch.setattr(planning, "_SAMPLE", 300)
    plan, rows, _ = make(tmp_path, 0.05, recipe=Recipe(scale=2.0))
    sums = [sum(sizes[row.input] for row in shard) for shard in rows]
    assert [shard.pixels for shard in plan.shards] == sums
    assert [shard.pictures for shard in plan.shards] == [len(shard) for shard in rows]
    mean = sum(sums) / len(sums)
    assert mean <= 0.05e6 and max(abs(one - mean) for one in sums) <= max(sizes.values())
    assert [row.input for shard in rows for row in shard] == sorted(sizes)


def test_most_sizes_are_estimated_from_the_bytes(tmp_path, make, monkeypatch):
    monkeypatch.setattr(planning, "_SAMPLE", 10)
    opened, probe = [], planning.images.probe
    monkeypatch.setattr(planning.images, "probe", lambda path: opened.append(path) or probe(path))
    rng = np.random.default_rng(0)
    for number in range(60):
        pixels = rng.integers(0, 256, (20 + number, 30, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number:03}.png")
    plan, _, _ = make(tmp_path, 0.01)
    assert len(opened) == 10
    exact = 16 * sum(30 * (20 + number) for number in range(60))
    assert sum(shard.pixels for shard in plan.shards) == pytest.approx(exact, rel=0.05)


def test_a_plan_is_the_same_each_time(tmp_path, make):
    fill(tmp_path / "in", 40)
    first = make(tmp_path / "in", 0.01)
    files = {path.name: path.read_bytes() for path in (tmp_path / "run" / "shards").iterdir()}
    assert make(tmp_path / "in", 0.01) == first
    assert {p.name: p.read_bytes() for p in (tmp_path / "run" / "shards").iterdir()} == files


def test_small_pictures_make_no_endless_shards(tmp_path, make, monkeypatch):
    monkeypatch.setattr(planning, "_MOST", 10)
    monkeypatch.setattr(planning, "_LEAST", 1)
    for number in range(95):
        (tmp_path / f"{number:02}.png").write_bytes(b"unreadable")
    Image.new("RGB", (300, 300)).save(tmp_path / "large.png")
    plan, _, _ = make(tmp_path)
    assert max(shard.pictures for shard in plan.shards) <= 20


def test_there_are_shards_for_a_few_workers(tmp_path, make):
    fill(tmp_path, 100)
    plan, _, _ = make(tmp_path)
    assert 7 <= len(plan.shards) <= 8


def test_folders_that_differ_in_case_alone_are_named_together(tmp_path, make):
    for name in ("A/x.png", "a/x.jpg", "b/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("the disk knows no case")
    _, rows, _ = make(tmp_path)
    names = {row.input: row.output for shard in rows for row in shard}
    assert names == {"A/x.png": "A/x_png.png", "a/x.jpg": "a/x_jpg.png", "b/x.png": "b/x.png"}


def test_the_output_is_no_input(tmp_path, make):
    fill(tmp_path, 3)
    fill(tmp_path / "out", 3)
    _, rows, _ = make(tmp_path)
    assert len([row for shard in rows for row in shard]) == 3


def test_the_pattern_chooses_pictures(tmp_path, make):
    fill(tmp_path, 12)
    _, rows, _ = make(tmp_path, pattern="01*.PNG")
    assert {row.input for shard in rows for row in shard} == {"010.png", "inner/011.png"}


def test_a_folder_that_is_closed_is_left_out(tmp_path, make, monkeypatch):
    fill(tmp_path, 3)
    entries = Folder.entries

    def closed(folder, place=""):
        if place == "inner":
            raise PermissionError("inner: Permission denied")
        return entries(folder, place)

    monkeypatch.setattr(Folder, "entries", closed)
    _, rows, warnings = make(tmp_path)
    assert {row.input for shard in rows for row in shard} == {"000.png", "001.png"}
    assert warnings == ["warning: inner: Permission denied; left out"]
