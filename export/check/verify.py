"""An exported graph held against the eager chain, on fresh random input."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from lpnsr.export.check.run_onnx import Run, Values
from lpnsr.export.graph.composing import CATEGORY
from lpnsr.export.graph.unroll import LATENT
from lpnsr.models.categories import watched
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, Tolerance

CLOSE, NEAR = 2 / 255, 4 / 255
ACCURATE_PSNR, ACCURATE_SHARE = 40.0, 0.95
"""What a whole chain must keep of its picture in fp32 where an engine may reduce precision by
itself: dB, and the share of values within 2/255."""
Parity = dict[str, float]


class ParityError(RuntimeError):
    """The exported graph does not compute what the eager chain computes."""


def random_input(preset: Preset, batch: int, tile: tuple[int, int], seed: int) -> Values:
    """What a graph takes: `lr`, uniform in [-1, 1], and, if the chain draws, standard `noise`."""
    rng = np.random.default_rng(seed)
    values = {"lr": rng.uniform(-1, 1, preset.shape("lr", batch, tile)).astype(np.float32)}
    if preset.draws:
        noise = rng.standard_normal(preset.shape("noise", batch, tile))
        values["noise"] = noise.astype(np.float32)
    return values


def tensors(values: Values) -> tuple[Tensor, Tensor]:
    """What the eager chain takes: the picture and the noise, of `random_input`."""
    lr = torch.from_numpy(values["lr"])
    return lr, torch.from_numpy(values["noise"]) if "noise" in values else lr.new_empty(0)


def measure(chain: Chain, run: Run, values: Values, same_codes: bool = False) -> Parity:
    """Run a graph with the outputs `sr` and `x_0` and the eager chain on the same input.

    Args:
        chain: the eager chain, float32.
        run: runs the graph.
        values: from `random_input`.
        same_codes: whether the eager chain decodes the codes that the graph has decided on, where
            there is a codebook. Then a near-tie that falls differently counts in `code_share`
            alone, and not in all of the picture that the decoder makes of this code.

    Returns:
        `x0_relative_l2`, `sr_close_share` (share of values within 1/255 of the range),
        `sr_near_share` (within 2/255), `sr_psnr` (dB, against a range of 2); with `same_codes`,
        `code_share` (share of equal codes); where a network sorts tokens into categories,
        `category_share` (share of equal ones, least of all layers). A near-tie that falls
        differently moves all tokens after it, so what follows is compared on equal categories.
    """
    found = run(values)
    categories = [value for name, value in found.items() if name.startswith(CATEGORY)]
    shares: list[float] = []

    def decide(own: Tensor) -> Tensor:
        given = torch.from_numpy(categories[len(shares)])
        shares.append(float((own == given).float().mean()))
        return given

    with torch.no_grad(), watched(chain, decide):
        expected = chain.run(*tensors(values))
    more = {"category_share": min(shares)} if shares else {}
    if same_codes and chain.codebook:
        (name,) = chain.codebook.outputs
        codes = torch.from_numpy(found[name])
        more["code_share"] = float((codes == expected[name]).all(dim=1).float().mean())
        expected["sr"] = _decode(chain, codes)
    x0, sr = expected["state"].numpy(), expected["sr"].numpy()
    return {
        "x0_relative_l2": float(np.linalg.norm(found[LATENT] - x0) / np.linalg.norm(x0)),
        "sr_close_share": float((np.abs(found["sr"] - sr) <= CLOSE).mean()),
        "sr_near_share": float((np.abs(found["sr"] - sr) <= NEAR).mean()),
        "sr_psnr": psnr(found["sr"], sr),
        **more,
    }


def measure_decoder(chain: Chain, run: Run, latent: np.ndarray) -> Parity:
    """Run the graph of the last stage and the eager one on what is decided of `latent`.

    Returns:
        `decoder_psnr` (dB, against a range of 2).

    Raises:
        ValueError: the chain decides nothing after its last step.
    """
    codebook = chain.codebook
    if codebook is None:
        raise ValueError("the chain has no codebook")
    with torch.no_grad():
        (codes,) = chain.compute(codebook, chain.updates()[-1], torch.from_numpy(latent))
    expected = _decode(chain, codes).numpy()
    found, *_ = run({codebook.outputs[0]: codes.numpy()}).values()  # it may have several names
    return {"decoder_psnr": psnr(found, expected)}


def _decode(chain: Chain, codes: Tensor) -> Tensor:
    """What the last stage makes of codes."""
    with torch.no_grad():
        (picture,) = chain.compute(chain.stages[-1], chain.updates()[-1], codes)
    return picture


def compare(found: np.ndarray, expected: np.ndarray) -> Parity:
    """`worst` and `mean` absolute error, and `psnr` (dB, against a range of 2)."""
    error = np.abs(found - expected, dtype=np.float64)
    figures = {"worst": float(error.max()), "mean": float(error.mean())}
    return figures | {"psnr": psnr(found, expected)}


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """PSNR in dB against a range of 2, at most 200."""
    error = np.square(found - expected, dtype=np.float64).mean()
    return float(10 * np.log10(4 / max(error, 4e-20)))


def check(parity: Parity, tolerance: Tolerance) -> None:
    """Accept what `measure` found in float32 or fail.

    Raises:
        ParityError: a figure is out of tolerance (or is not a number).
    """
    distance, share = parity["x0_relative_l2"], parity["sr_close_share"]
    if not distance <= tolerance.x0:
        raise ParityError(
            f"x_0 of the exported graph is {distance:.1e} (relative L2) from eager PyTorch, "
            f"more than {tolerance.x0:.1e}"
        )
    if not share >= tolerance.close_share:
        raise ParityError(
            f"only {share:.2%} of the exported graph's output is within 1/255 of eager PyTorch, "
            f"less than {tolerance.close_share:.2%}"
        )
    if not parity.get("code_share", 1.0) >= tolerance.code_share:
        raise ParityError(
            f"the exported graph decides on only {parity['code_share']:.2%} of the codes of eager "
            f"PyTorch, less than {tolerance.code_share:.2%}"
        )
    _check_categories(parity, tolerance)


def _check_categories(parity: Parity, tolerance: Tolerance) -> None:
    if not parity.get("category_share", 1.0) >= tolerance.category_share:
        raise ParityError(
            f"the exported graph puts only {parity['category_share']:.2%} of the tokens into the "
            f"categories of eager PyTorch, less than {tolerance.category_share:.2%}"
        )


def check_narrow(parity: Parity, types: Mapping[str, str], tolerance: Tolerance) -> None:
    """Accept what was found of a graph with fp16 or bf16 stages, or fail.

    Args:
        parity: from `measure`, with `decoder_psnr` if the decoder is narrow.
        types: stage -> precision. The coarsest decides on x_0, the last stage's on its picture.
        tolerance: the preset's.

    Raises:
        ParityError: a figure is out of tolerance (or is not a number).
    """
    coarsest = "bf16" if "bf16" in types.values() else "fp16"
    x0 = {"fp16": tolerance.x0_fp16, "bf16": tolerance.x0_bf16}[coarsest]
    if not parity["x0_relative_l2"] <= x0:
        raise ParityError(
            f"x_0 in {coarsest} is {parity['x0_relative_l2']:.1e} (relative L2) from eager PyTorch "
            f"in fp32, more than {x0:.1e}"
        )
    figure, what, narrow = "sr_psnr", "the picture", coarsest
    if "decoder_psnr" in parity:
        figure, what, narrow = "decoder_psnr", "the decoder on equal codes", [*types.values()][-1]
    least = {"fp16": tolerance.psnr_fp16, "bf16": tolerance.psnr_bf16}[narrow]
    if not parity[figure] >= least:
        raise ParityError(
            f"{what} in {narrow} is {parity[figure]:.1f} dB from eager PyTorch in fp32, "
            f"less than {least:.1f} dB"
        )
    _check_categories(parity, tolerance)


def accurate_in_bf16(parity: Parity, tolerance: Tolerance) -> bool:
    """Whether what `measure` found in bf16 may stand for fp32 without being asked for.

    The whole chain decides: where codes flip, each stage may be close on equal inputs and the
    picture still differ.
    """
    return (
        parity["sr_psnr"] >= ACCURATE_PSNR
        and parity["sr_near_share"] >= ACCURATE_SHARE
        and parity.get("category_share", 1.0) >= tolerance.category_share
    )
