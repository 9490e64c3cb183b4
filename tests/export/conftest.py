"""Small models, their checkpoints and an exported bundle."""

import shutil

import pytest
from small import TINY, random_model

from lpnsr.export import pack
from lpnsr.models import presets
from lpnsr.runtime.bundle import Bundle

SMALL, WIDE = (1, (16, 16)), (2, (16, 32))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Networks with attention on a rearranged picture, with random weights."""
    return random_model(TINY, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_bundle(tiny, tmp_path_factory) -> Bundle:
    """`tiny`, exported for one shape; do not change its files."""
    target = tmp_path_factory.mktemp("bundle") / "tiny"
    return pack.pack(tiny.chain, tiny.preset, [SMALL], target)


@pytest.fixture(scope="session")
def two_shapes(tiny, tmp_path_factory) -> Bundle:
    """`tiny`, exported for two shapes; do not change its files."""
    target = tmp_path_factory.mktemp("bundle") / "two_shapes"
    return pack.pack(tiny.chain, tiny.preset, [SMALL, WIDE], target)


@pytest.fixture(scope="session")
def micro_bundles(micro, micro_traces, tmp_path_factory):
    """Bundles of `micro` for `SMALL`, by what they are, such as "fp16" or "staged fp32".

    Do not change their files.
    """
    return Exports(micro, micro_traces, tmp_path_factory.mktemp("bundles"))


class Exports(dict):
    """Topology, if it is not unrolled, and precision -> a bundle, exported when first asked for."""

    def __init__(self, model, traces, folder):
        self.model, self.traces, self.folder = model, traces, folder

    def __missing__(self, name):
        model, target = self.model, self.folder / name.replace(" ", "_")
        topology, _, precision = name.rpartition(" ")
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(pack, "trace_stage", lambda chain, preset, *shape: self.traces(*shape))
            self[name] = pack.pack(
                model.chain,
                model.preset,
                [SMALL],
                target,
                precision=precision,
                topology=topology or "unrolled",
            )
        return self[name]


@pytest.fixture
def quick(monkeypatch, micro, micro_traces):
    """`micro` as a preset that exports in a moment, because its traces are there."""
    monkeypatch.setitem(presets.PRESETS, "micro", micro.preset)
    monkeypatch.setattr(pack, "trace_stage", lambda chain, preset, *shape: micro_traces(*shape))
    return micro


@pytest.fixture
def copied(quick, micro_bundles, monkeypatch):
    """Exports of `micro` are copies of one that was made before; lists the chains it was given."""
    whole, chains = micro_bundles["fp32"].path, []

    def copy(chain, preset, shapes, target, *, force, **_):
        chains.append(chain)
        if force:
            shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(whole, target)
        return Bundle.open(target)

    monkeypatch.setattr(pack, "pack", copy)
    return chains
