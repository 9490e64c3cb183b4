import numpy as np
import pytest

from lpnsr.benchmarks.timing import Row, spread, time_in_turns


def test_engines_take_turns_after_a_round_that_compares():
    order = []

    def engine(name, value):
        def call():
            order.append(name)
            return np.full(3, value)

        return call

    row = time_in_turns(Row("x", 1), {"a": engine("a", 0.0), "b": engine("b", 0.2)}, runs=2)
    assert order == ["a", "b", "a", "b", "b", "a"]
    assert row.psnr == {"a": 200.0, "b": pytest.approx(20.0)}


def test_an_engine_that_fails_is_told_and_left_out():
    def fails():
        raise RuntimeError("no memory\ndetails")

    everyone = {"a": lambda: np.zeros(3), "b": fails, "c": lambda: np.zeros(3)}
    row = time_in_turns(Row("x", 1), everyone, runs=1)
    assert row.failed == {"b": "no memory"}
    assert row.seconds.keys() == row.psnr.keys() == {"a", "c"}


def test_spread_is_half_the_range():
    assert spread([1.0, 2.0, 3.0]) == "2.000 s ± 50%"
