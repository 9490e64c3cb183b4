import json
from pathlib import Path

import numpy as np
import pytest

from lpnsr.models.schedule import Schedule

GOLDEN = Path(__file__).parents[1] / "reference" / "golden_schedule.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def schedule(golden):
    return Schedule(**golden["settings"])


def test_defaults_are_the_published_settings(schedule):
    assert schedule == Schedule()


def test_etas(schedule, golden):
    np.testing.assert_allclose(schedule.etas, golden["etas"], rtol=1e-6)
    np.testing.assert_allclose(schedule.start_noise, 2 * golden["sqrt_etas"][-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("coefficient", "constant", "convert"),
    [
        ("state", "posterior_mean_coef1", lambda value: value),
        ("prediction", "posterior_mean_coef2", lambda value: value),
        ("noise", "posterior_variance", np.sqrt),
        ("input_scale", "normalize_std", np.reciprocal),
    ],
)
def test_coefficients(schedule, golden, coefficient, constant, convert):
    found = [getattr(step, coefficient) for step in reversed(schedule.reverse_steps())]
    np.testing.assert_allclose(found, convert(np.array(golden[constant])), rtol=1e-6)


def test_steps_run_backwards(schedule):
    assert [step.timestep for step in schedule.reverse_steps()] == [3, 2, 1, 0]


def test_last_step_is_the_prediction(schedule):
    last = schedule.reverse_steps()[-1]
    assert (last.state, last.prediction, last.noise) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize("steps", [2, 5, 15])
def test_posterior_agrees_with_the_forward_process(steps):
    """x_{t-1} from the posterior has the mean and variance that eq. 1 gives it, for any x_0, y."""
    schedule = Schedule(steps=steps)
    etas = schedule.etas
    x0, y = 0.3, -0.8
    for step in schedule.reverse_steps():
        now, before = etas[step.timestep], etas[step.timestep - 1] if step.timestep else 0.0
        mean = step.state * (x0 + now * (y - x0)) + step.prediction * x0
        variance = step.state**2 * schedule.kappa**2 * now + step.noise**2
        np.testing.assert_allclose(mean, x0 + before * (y - x0), rtol=1e-9)
        np.testing.assert_allclose(variance, schedule.kappa**2 * before, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_truncated_chain_is_the_end_of_the_whole(steps):
    whole = Schedule()
    short = whole.truncated(steps)
    assert short.reverse_steps() == whole.reverse_steps()[-steps:]
    assert short.start_noise == pytest.approx(whole.kappa * whole.etas[steps - 1] ** 0.5)
    assert short.draws == steps
    assert whole.truncated(4).start_noise == whole.start_noise


@pytest.mark.parametrize("steps", [0, 5])
def test_a_chain_cannot_be_longer_than_its_schedule(steps):
    with pytest.raises(ValueError, match="4 steps cannot be run with"):
        Schedule().truncated(steps)
