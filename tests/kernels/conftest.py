import numpy as np
import pytest

from lpnsr import kernels
from lpnsr.kernels import cuda, library, reference


@pytest.fixture(params=["numpy", "library"])
def face(request, monkeypatch):
    """`lpnsr.kernels` with one of its CPU faces."""
    if request.param == "library" and library.LIBRARY is None:
        pytest.skip("lpnsr was built without a C++ compiler")
    module = {"numpy": reference, "library": library}[request.param]
    monkeypatch.setattr(kernels, "_update", module.update)
    return kernels


@pytest.fixture(scope="session")
def gpu():
    """The first GPU; tests that ask for it are skipped where there is none."""
    try:
        return cuda.device()
    except cuda.KernelError as error:
        pytest.skip(str(error))


@pytest.fixture
def tensors():
    """`tensors(shape)`: all that a step can read, by name."""

    def make(shape):
        rng = np.random.default_rng(0)
        names = ("x", "x0", "y", "mean", "logvar", "weight", "eps")
        made = {name: rng.standard_normal(shape, dtype=np.float32) for name in names}
        made["logvar"] = 3 * made["logvar"] - 4
        made["weight"] = np.abs(made["weight"])
        return made

    return make


@pytest.fixture
def expected():
    """`expected(step, tensors)`: the formula in double precision, and times the next scale."""

    def shift(step, tensors):
        t = {name: tensor.astype(np.float64) for name, tensor in tensors.items()}
        noise = t.get("mean", 0) + np.exp(t.get("logvar", 0) / 2) * t.get("eps", 0)
        new = step.state * t["x"] + step.prediction * t.get("x0", 0) + step.start * t.get("y", 0)
        new = new + step.noise * t.get("weight", 1) * noise
        return new, new * step.next_scale

    return shift
