"""Small models, their checkpoints and an exported bundle."""

import functools

import pytest
from small import MICRO, random_model

from lpnsr.export import pack
from lpnsr.export.graph import trace
from lpnsr.models import presets
from lpnsr.runtime.bundle import Bundle

SMALL, WIDE = (1, (16, 16)), (2, (16, 32))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The built-in model's networks with random weights."""
    return random_model(presets.get_preset("lpnsr-tiny"), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny, tmp_path_factory) -> Bundle:
    """`tiny`, exported for two shapes; do not change its files."""
    target = tmp_path_factory.mktemp("bundle") / "tiny"
    return pack.pack(tiny.chain, tiny.preset, [SMALL, WIDE], target)


@pytest.fixture(scope="session")
def micro(tmp_path_factory):
    """The same networks as in the full-size model, as small as they get, and two steps."""
    return random_model(MICRO, tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def micro_traces(micro):
    """Traces stages of `micro`, each once in a session."""

    @functools.cache
    def traced(stage, batch, tile, dtype):
        return trace.trace_stage(micro.chain, micro.preset, stage, batch, tile, dtype)

    return traced


@pytest.fixture
def quick(monkeypatch, micro, micro_traces):
    """`micro` as a preset that exports in a moment, because its traces are there."""
    monkeypatch.setitem(presets.PRESETS, "micro", micro.preset)
    monkeypatch.setattr(pack, "trace_stage", lambda chain, preset, *shape: micro_traces(*shape))
    return micro
