"""Which parameters of a test are in the default run."""

from collections.abc import Sequence

import pytest


def slow_but(quick: Sequence, values: Sequence) -> list:
    """Parameters for all of `values`; those that are not in `quick` are marked slow."""
    return [value if value in quick else slow(value) for value in values]


def slow(value: object) -> object:
    """One parameter, or a tuple of several, marked slow."""
    return pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
