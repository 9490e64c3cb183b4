import dataclasses

import numpy as np
import pytest

from lpnsr import kernels
from lpnsr.kernels import Step

STEP = Step(state=0.9, prediction=0.15, start=-0.05, noise=0.7, next_scale=0.3)
OPTIONAL = [
    (),
    ("x0",),
    ("x0", "y", "eps"),
    ("x0", "eps", "weight"),
    ("x0", "mean", "logvar", "eps"),
    ("x0", "y", "mean", "logvar", "weight", "eps"),
]


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 7), (3, 6, 64, 64), (1, 5, 31, 1027)])
@pytest.mark.parametrize("given", OPTIONAL, ids="+".join)
def test_a_step_is_the_formula(face, tensors, expected, shape, given):
    every = tensors(shape)
    chosen = {name: every[name] for name in ("x", *given)}
    found = face.residual_shift(STEP, **chosen)
    for ours, theirs in zip(found, expected(STEP, chosen), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=3e-6)


def test_what_has_no_factor_is_not_read(face, tensors, expected):
    every = tensors((1, 3, 4, 4))
    broken = {name: np.full_like(every["x"], np.nan) for name in ("y", "mean", "eps")}
    step = dataclasses.replace(STEP, start=0, noise=0)
    found, _ = face.residual_shift(step, **{**every, **broken})
    kept = {name: every[name] for name in ("x", "x0")}
    np.testing.assert_allclose(found, expected(step, kept)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 2, None])
def test_noise_is_made_where_each_item_lies(face, tensors, expected, threads):
    shape, seed, draw = (3, 5, 96, 130), 2**40 + 7, 2
    places = [(0, 0), (40, 128), (2**20, 3)]
    every = tensors(shape)
    noise = [kernels.normals(seed, draw + 1, 5, *place, 96, 130)[draw] for place in places]
    every["eps"] = np.stack(noise)
    read = expected(STEP, every)
    del every["eps"]
    origins = kernels.origins(seed, places)
    made = face.residual_shift(STEP, **every, draw=draw, origins=origins, threads=threads)
    for ours, theirs in zip(made, read, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=5e-6)


def test_threads_do_not_change_a_bit(tensors):
    every = tensors((2, 6, 300, 301))
    del every["eps"]
    origins = kernels.origins(1, [(0, 0), (0, 200)])
    one, two, seven = (
        kernels.residual_shift(STEP, **every, origins=origins, threads=threads)
        for threads in (1, 2, 7)
    )
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, seven)


def test_a_step_can_be_written_in_place(face, tensors):
    every = tensors((2, 3, 33, 35))
    expected = face.residual_shift(STEP, **every)
    out = every["x"], np.empty_like(every["x"])
    found = face.residual_shift(STEP, **every, out=out)
    assert found is out
    np.testing.assert_array_equal(found, expected)


def test_inputs_need_not_be_contiguous(face, tensors):
    every = tensors((2, 3, 8, 9))
    turned = {
        name: t.transpose(0, 1, 3, 2).copy().transpose(0, 1, 3, 2) for name, t in every.items()
    }
    np.testing.assert_array_equal(
        face.residual_shift(STEP, **turned), face.residual_shift(STEP, **every)
    )


def test_nan_stays_nan(face, tensors):
    every = tensors((1, 1, 2, 40))
    every["logvar"][0, 0, 0, 3] = np.nan
    found, _ = face.residual_shift(STEP, **every)
    assert np.argwhere(np.isnan(found)).tolist() == [[0, 0, 0, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": np.zeros((1, 2, 4, 5), np.float32)}, r"expected x0 float32 \(1, 2, 4, 4\)"),
        ({"mean": np.zeros((1, 2, 4, 4))}, "expected mean float32 .* got float64"),
        ({"origins": np.zeros((1, 4), np.uint32)}, "not both"),
        ({"origins": np.zeros((2, 4), np.uint32), "eps": None}, r"origins uint32 \(1, 4\)"),
        ({"out": (np.zeros((1, 2, 4, 4), np.float32).T,) * 2}, "contiguous"),
    ],
)
def test_what_does_not_fit_is_refused(tensors, change, message):
    with pytest.raises(ValueError, match=message):
        kernels.residual_shift(STEP, **{**tensors((1, 2, 4, 4)), **change})
