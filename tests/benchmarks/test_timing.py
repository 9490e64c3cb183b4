import math
from itertools import cycle

import numpy as np
import pytest

from lpnsr.benchmarks import timing
from lpnsr.benchmarks.methods import Methods
from lpnsr.benchmarks.timing import Row, Timer, spread, time_in_turns, times_as_fast


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


def test_engines_that_run_alone_are_given_up_and_compared_with_the_first(monkeypatch):
    times = iter([1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(timing, "seconds", lambda call: call() is not None and next(times))
    there = set()

    class Engine:
        def __init__(self, name, value):
            assert not there, "the one before is still in memory"
            self.name, self.value = name, value
            there.add(name)

        def __call__(self):
            return np.full(3, self.value)

        def __del__(self):
            there.discard(self.name)

    timer = Timer(Row("x", 1), runs=2, settled=0.1)
    methods = Methods(use=lambda name, call: timer.time({name: call}))
    for name, value in (("a", 0.0), ("b", 0.2)):
        methods.add(name, lambda name=name, value=value: Engine(name, value))
    assert timer.row.psnr == {"a": 200.0, "b": pytest.approx(20.0)}
    assert timer.row.seconds == {"a": [1.0, 1.0], "b": [1.0, 2.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0]}
    assert methods.runs == {} and methods.build.keys() == {"a", "b"}


def test_an_engine_that_fails_is_told_and_left_out():
    def fails():
        raise RuntimeError("no memory\ndetails")

    everyone = {"a": lambda: np.zeros(3), "b": fails, "c": lambda: np.zeros(3)}
    row = time_in_turns(Row("x", 1), everyone, runs=1)
    assert row.failed == {"b": "no memory"}
    assert row.seconds.keys() == row.psnr.keys() == {"a", "c"}


def test_rounds_go_on_until_the_times_have_settled(monkeypatch):
    times = iter([3.0, 2.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(timing, "seconds", lambda call: next(times))
    engines = {"a": lambda: np.zeros(3)}
    row = time_in_turns(Row("x", 1), engines, runs=4, settled=0.03)
    assert row.seconds["a"] == [3.0, 2.0, 1.0, *[2.0] * 5]
    times = cycle([1.0, 2.0])
    assert len(time_in_turns(Row("x", 1), engines, runs=4, settled=0.03).seconds["a"]) == 16
    assert len(time_in_turns(Row("x", 1), engines, runs=4).seconds["a"]) == 4


def test_an_interval_leaves_out_what_fair_coins_allow():
    for count, cut in ((2, 0), (5, 0), (7, 0), (8, 1), (10, 1), (11, 2), (20, 5)):
        values = [float(value) for value in range(count)]
        assert timing.interval(values[::-1]) == (values[cut], values[-1 - cut])
        beyond = sum(math.comb(count, k) for k in range(cut + 1)) / 2 ** (count - 1)
        assert beyond <= 0.1 or count < 5


def test_spread_is_half_the_interval():
    assert spread([1.0, 2.0, 3.0]) == "2.000 s ± 50%"
    assert spread([9.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 3.0]) == "2.000 s ± 25%"


def test_what_was_not_told_apart_is_not_compared():
    reference = [4.0, 4.2, 4.1]
    assert times_as_fast([2.0, 2.1, 2.05], reference) == "2.00"
    assert times_as_fast([3.9, 4.05, 4.0], reference) == timing.WITHIN
    assert times_as_fast([2.0], reference) == timing.WITHIN
    assert times_as_fast(reference, reference) == "1.00"
