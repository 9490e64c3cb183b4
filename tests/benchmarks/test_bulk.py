import re

import pytest

pytest.importorskip("fsspec", reason="needs the extra bulk")

from lpnsr.benchmarks import paths
from runtime import toy


def test_a_simulated_plan_is_planned_and_told():
    text = paths.measure(2500)
    found = re.fullmatch(
        r"2,500 pictures in (\d+) shards: \d+\.\d s to list and cut them, "
        r"\d+\.\d\d s for the status",
        text,
    )
    # A gigapixel each, and each picture's output has about 4.2 megapixels.
    assert 8 <= int(found[1]) <= 32


@pytest.mark.slow
def test_every_number_of_workers_has_a_line(tmp_path):
    pytest.importorskip("ray", reason="needs the extra bulk")
    from lpnsr.benchmarks import bulk

    text = bulk.measure(toy.write_bundle(tmp_path / "toy", fragile=False), 5, [1], 1)
    assert text.startswith("5 pictures of 48 to 200 pixels a side on ")
    single, workers = text.splitlines()[-2:]
    assert re.fullmatch(r"\| lpnsr-run \| [\d.]+ \| - \| - \|", single)
    assert re.fullmatch(r"\| 1 worker \| [\d.]+ \| [-+][\d.]+% \| [\d.]+ s \|", workers)
