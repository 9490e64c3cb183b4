"""The loop between the stages, with functions in place of engines."""

import numpy as np
import pytest

from lpnsr.kernels.recurrence import DENOISE, END, GUIDE, NOISE, START, Step
from lpnsr.runtime.backends import staged
from lpnsr.runtime.manifest import StageGraph

SHAPE = (2, 5, 8, 8)
STEPS = (
    Step(1.0, 0.0, 0.0, 2.0, 0.5, False),
    Step(0.6, 0.4, 0.0, 0.3, 0.7, True),
    Step(0.5, 0.3, 0.2, 0.0, 0.9, False),
    Step(0.5, 0.5, 0.0, 0.1, 1.0, False),
)
FUNCTIONS = {
    "pre_upsampler": lambda lr: [np.full((2, 3, 32, 32), lr.mean(), np.float32)],
    "encoder": lambda picture: [np.full(SHAPE, picture.mean(), np.float32)],
    "auxiliary": lambda lr, y: [0.5 * y, np.full(SHAPE, 0.7, np.float32)],
    "denoiser": lambda scaled, estimate, y, step: [np.sin(scaled) + estimate - y + step[0]],
    "noise_predictor": lambda state, x0, lr, step: [state - x0 + step[0], 0.1 * x0 + lr.mean()],
    "decoder": lambda state: [state.repeat(4, 2).repeat(4, 3)[:, :3]],
}
STAGES = (
    StageGraph("pre_upsampler", "a", ("lr",), ("picture",), START),
    StageGraph("encoder", "b", ("picture",), ("y",), START),
    StageGraph("auxiliary", "c", ("lr", "y"), ("estimate", "weight"), GUIDE),
    StageGraph("denoiser", "d", ("scaled", "estimate", "y", "step"), ("x0",), DENOISE),
    StageGraph("noise_predictor", "e", ("state", "x0", "lr", "step"), ("mean", "logvar"), NOISE),
    StageGraph("decoder", "f", ("state",), ("sr",), END),
)


def compute(stage, inputs):
    return [output.astype(np.float32) for output in FUNCTIONS[stage.name](*inputs)]


def written_out(lr, noise):
    """The chain of these steps, line by line."""
    y = np.full(SHAPE, lr.mean())
    estimate, weight = 0.5 * y, 0.7
    x = y + 2.0 * weight * noise[0]

    def predict(scaled, step):
        return np.sin(scaled) + estimate - y + step

    x0 = predict(0.5 * x, 0)
    mean, logvar = x - x0, 0.1 * x0 + lr.mean()
    x = 0.6 * x + 0.4 * x0 + 0.3 * weight * (mean + np.exp(logvar / 2) * noise[1])
    x0 = predict(0.7 * x, 1)
    x = 0.5 * x + 0.3 * x0 + 0.2 * y
    x0 = predict(0.9 * x, 2)
    return 0.5 * x + 0.5 * x0 + 0.1 * weight * noise[2]


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    lr = rng.uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
    return lr, rng.standard_normal((3, *SHAPE), np.float32)


def test_the_loop(inputs):
    values = staged.upscale(STAGES, STEPS, compute, {"lr": inputs[0]}, inputs[1])
    expected = written_out(*inputs)
    np.testing.assert_allclose(values["state"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(values["sr"][:, :, ::4, ::4], values["state"][:, :3])
    assert values["scaled"].dtype == values["state"].dtype == np.float32


def test_each_stage_is_called_when_it_is_its_turn(inputs):
    calls = []

    def noted(stage, arrays):
        step = arrays[-1][0] if stage.inputs[-1] == "step" else None
        calls.append((stage.name, step))
        return compute(stage, arrays)

    staged.upscale(STAGES, STEPS, noted, {"lr": inputs[0]}, inputs[1])
    assert calls == [
        ("pre_upsampler", None),
        ("encoder", None),
        ("auxiliary", None),
        ("denoiser", 0),
        ("noise_predictor", 0),
        ("denoiser", 1),
        ("denoiser", 2),
        ("decoder", None),
    ]
