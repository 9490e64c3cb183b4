"""The reference data, and comparisons that show what the errors look like when they fail."""

import functools
import gc
import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

REFERENCE = Path(__file__).parent / "reference"
# Official files wrap their weights and prefix their keys in different ways.
OFFICIAL_FORMS = {
    "pre_upsampler": ("params_ema", ""),
    "autoencoder": ("state_dict", ""),
    "denoiser": ("state_dict", "module._orig_mod."),
    "noise_predictor": (None, ""),
}
UPSR_FORMS = {"upsr_auxiliary": ("params_ema", ""), "upsr_denoiser": ("params", "module.")}


@pytest.fixture(scope="session")
def recipe() -> ModuleType:
    """`reference/recipe.py`: the weights, noise and inputs behind the golden tensors."""
    spec = importlib.util.spec_from_file_location("recipe", REFERENCE / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def official_weights(recipe, tmp_path_factory):
    """A folder of full-size checkpoints with the recipe's weights, like the published ones."""
    yield from _checkpoints(recipe, OFFICIAL_FORMS, tmp_path_factory.mktemp("official_weights"))


@pytest.fixture(scope="session")
def upsr_weights(recipe, tmp_path_factory):
    """The same for UPSR."""
    yield from _checkpoints(recipe, UPSR_FORMS, tmp_path_factory.mktemp("upsr_weights"))


def _checkpoints(recipe, forms, folder):
    import torch

    for network, (wrapper, prefix) in forms.items():
        described = json.loads((REFERENCE / "keys" / f"{network}.json").read_text())
        content = {
            prefix + key: torch.from_numpy(value) for key, value in recipe.fill(network).items()
        }
        for key, (shape, dtype) in described["buffers"].items():
            dtype = getattr(torch, dtype.removeprefix("torch."))
            content[prefix + key] = torch.zeros(shape, dtype=dtype)
        torch.save({wrapper: content} if wrapper else content, folder / described["file"])
    del content
    gc.collect()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def micro(tmp_path_factory):
    """The same networks as in the full-size model, as small as they get, and two steps."""
    from small import MICRO, random_model

    return random_model(MICRO, tmp_path_factory.mktemp("micro"))


@pytest.fixture(scope="session")
def micro_raw_traces(micro):
    """Traces stages of `micro` without rewriting the graphs, each once in a session."""
    from lpnsr.export.graph import passes
    from lpnsr.export.graph.trace import trace_stage

    @functools.cache
    def traced(stage, batch, tile, precision="fp32"):
        with pytest.MonkeyPatch.context() as patches:
            patches.setattr(passes, "rewrite", lambda model: None)
            return trace_stage(micro.chain, micro.preset, stage, batch, tile, precision)

    return traced


@pytest.fixture(scope="session")
def micro_traces(micro_raw_traces):
    """Traces of stages of `micro` as they are exported, each made once in a session."""
    from lpnsr.export.graph.passes import rewrite

    @functools.cache
    def traced(stage, batch, tile, precision="fp32"):
        model = micro_raw_traces(stage, batch, tile, precision).clone()
        rewrite(model)
        return model

    return traced


@pytest.fixture(scope="session")
def assert_near():
    """`assert_near(found, expected, limit)`: relative L2 distance, a histogram on failure."""
    return _assert_near


@pytest.fixture(scope="session")
def assert_share():
    """`assert_share(found, expected, share, within)`: share of values that are close enough."""
    return _assert_share


def _assert_near(found, expected, limit):
    found, expected = _arrays(found, expected)
    distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    if not distance <= limit:
        pytest.fail(
            f"relative L2 distance {distance:.2e} is over {limit:.0e}\n"
            + error_histogram(found - expected)
        )


def _assert_share(found, expected, share, within=0.0):
    found, expected = _arrays(found, expected)
    close = (np.abs(found - expected) <= within).mean()
    if not close >= share:
        pytest.fail(
            f"{close:.3%} of values are within {within:.2g}, fewer than {share:.1%}\n"
            + error_histogram(found - expected)
        )


def _arrays(found, expected):
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    return found.astype(np.float64), expected.astype(np.float64)


def error_histogram(errors):
    """How many errors fall into each power of ten, one line each."""
    magnitude = np.abs(errors[np.isfinite(errors)])
    decade = np.floor(np.log10(np.maximum(magnitude, 1e-12))).astype(int)
    rows = [("not finite", errors.size - magnitude.size)]
    rows += [(f"1e{d:+03d}...", int((decade == d).sum())) for d in range(1, -13, -1)]
    rows[1] = ("1e+01 or more", int((decade >= 1).sum()))
    rows[-1] = ("below 1e-11", int((decade <= -12).sum()))
    return "\n".join(
        f"{label:>14} {count:>9} {'#' * round(50 * count / errors.size)}"
        for label, count in rows
        if count
    )
