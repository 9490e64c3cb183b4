import json

import pytest

from lpnsr.benchmarks import cli, scaling
from lpnsr.benchmarks.isolated import Measured


def test_a_power_law_is_found(monkeypatch, tmp_path, capsys):
    tasks = []

    def measure(task):
        tasks.append(task)
        area = task.size[0] ** 2
        return Measured(9.0, [3e-5 * area] * task.runs, 10**8, 10**8 + 800 * area, None)

    monkeypatch.setattr(scaling.isolated, "measure", measure)
    file, plot = tmp_path / "kept.json", tmp_path / "plot.png"
    options = ["--batches", "--runs", "4", "--json", str(file), "--plot", str(plot)]
    assert cli.main(["scaling", *options]) == 0
    kept = json.loads(file.read_text())
    assert capsys.readouterr().out == scaling.describe(kept) + "\n"
    assert scaling.exponents(kept) == {"time": pytest.approx(1), "memory": pytest.approx(1)}
    assert plot.is_file()
    # What takes long is timed once.
    assert [task.runs for task in tasks] == [4, 4, 4, 4, 1, 1]
    assert scaling.exponent([1, 4, 16], [1, 2, 4]) == pytest.approx(0.5)


def test_pictures_are_measured(tmp_path):
    file = tmp_path / "kept.json"
    options = ["--sides", "16", "--batches", "--runs", "1"]
    assert cli.main(["scaling", *options, "--backend", "onnxruntime", "--json", str(file)]) == 0
    kept = json.loads(file.read_text())
    assert [each["side"] for each in kept["sizes"]] == [16]
    assert all(len(each["seconds"]) == 1 for each in kept["sizes"])


@pytest.mark.slow
def test_batches_are_measured(tmp_path):
    file = tmp_path / "kept.json"
    options = ["--sides", "16", "--batches", "1", "2", "--runs", "1"]
    assert cli.main(["scaling", *options, "--backend", "onnxruntime", "--json", str(file)]) == 0
    kept = json.loads(file.read_text())
    assert [each["batch"] for each in kept["batches"]] == [1, 2]
    assert all(len(each["seconds"]) == 1 for each in kept["batches"])
