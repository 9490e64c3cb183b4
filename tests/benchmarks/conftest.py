import pytest

from lpnsr.benchmarks import stages
from lpnsr.export import pack
from lpnsr.export.graph import passes
from lpnsr.models import presets


@pytest.fixture(autouse=True)
def known(request, monkeypatch):
    """The preset `micro` is known by its name in tests that use it."""
    if "micro" in request.fixturenames:
        micro = request.getfixturevalue("micro")
        monkeypatch.setitem(presets.PRESETS, "micro", micro.preset)


@pytest.fixture
def traced_once(micro_traces, micro_raw_traces, monkeypatch):
    """Graphs of `micro` are made of the session's traces, with rewrites or without."""
    rewrite = passes.rewrite

    def traced(chain, preset, *shape):
        return (micro_traces if passes.rewrite is rewrite else micro_raw_traces)(*shape)

    monkeypatch.setattr(pack, "trace_stage", traced)
    monkeypatch.setattr(stages, "trace_stage", traced)
