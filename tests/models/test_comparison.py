"""The comparisons that other tests rely on."""

import numpy as np
import pytest


def test_a_distance_over_the_limit_fails_with_a_histogram(assert_near):
    expected = np.ones((1, 3, 8, 8))
    assert_near(expected + 9e-5, expected, 1e-4)
    found = expected.copy()
    found[0, 0] += 0.02
    found[0, 1, 0, 0] = 100.0
    with pytest.raises(pytest.fail.Exception) as failure:
        assert_near(found, expected, 1e-4)
    lines = [line.split() for line in str(failure.value).splitlines()[1:]]
    assert [line[:-1] for line in lines[:2]] == [["1e+01", "or", "more"], ["1e-02...", "64"]]
    assert lines[-1][:4] == ["below", "1e-11", "127", "#" * 33]


def test_what_is_not_finite_fails(assert_near, assert_share):
    found = np.array([1.0, np.nan])
    for compare in (lambda: assert_near(found, np.ones(2), 1e9), lambda: assert_share(found, 1, 1)):
        with pytest.raises((pytest.fail.Exception, AssertionError)):
            compare()
    with pytest.raises(pytest.fail.Exception, match=r"not finite +1"):
        assert_near(found, np.ones(2), 1e9)


def test_a_share(assert_share):
    expected = np.zeros(100)
    found = expected.copy()
    found[0] = 0.5
    assert_share(found, expected, 0.99)
    with pytest.raises(pytest.fail.Exception, match=r"98\.000% of values"):
        assert_share(np.where(np.arange(100) < 2, 0.5, 0.0), expected, 0.99, within=0.1)


def test_shapes_do_not_broadcast(assert_near):
    with pytest.raises(AssertionError):
        assert_near(np.ones((1, 3)), np.ones((2, 3)), 1.0)
