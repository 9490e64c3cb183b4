"""An exported graph held against the eager chain, on fresh random input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from lpnsr.export.unroll import LATENT
from lpnsr.models.chain import Chain
from lpnsr.models.presets import Preset, Tolerance

CLOSE = 2 / 255


class ParityError(RuntimeError):
    """The exported graph does not compute what the eager chain computes."""


class EngineMissingError(RuntimeError):
    """ONNX Runtime, which verifies exports, is not installed."""


def measure(
    chain: Chain, preset: Preset, file: Path, batch: int, tile: tuple[int, int], seed: int
) -> dict[str, float]:
    """Run the graph in `file` and the eager chain on the same random input.

    Args:
        chain: the eager chain.
        preset: gives the shapes.
        file: ONNX graph with the outputs `sr` and `x_0`.
        batch: tiles at once.
        tile: (height, width) of the input picture.
        seed: of the random input.

    Returns:
        `x0_relative_l2`, `sr_close_share` (share of values within 1/255 of the range), `sr_psnr`
        (dB, against a range of 2) and `seed`.

    Raises:
        EngineMissingError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineMissingError(
            "verification needs ONNX Runtime; install it with: pip install 'lpnsr[cpu]'"
        ) from error

    rng = np.random.default_rng(seed)
    lr = rng.uniform(-1, 1, (batch, 3, *tile)).astype(np.float32)
    shape = (preset.draws, batch, preset.latent_channels, *tile)
    noise = rng.standard_normal(shape).astype(np.float32)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    sr, x0 = session.run(["sr", LATENT], {"lr": lr, "noise": noise})
    del session

    with torch.no_grad():
        small = torch.from_numpy(lr)
        expected_x0 = chain.reverse(chain.encode(small), small, torch.from_numpy(noise))
        expected = chain.codec.decode(expected_x0).clamp(-1, 1).numpy()
    distance = np.linalg.norm(x0 - expected_x0.numpy()) / np.linalg.norm(expected_x0.numpy())
    difference = np.abs(sr - expected)
    return {
        "x0_relative_l2": float(distance),
        "sr_close_share": float((difference <= CLOSE).mean()),
        "sr_psnr": float(10 * np.log10(4 / max(np.square(difference).mean(), 1e-20))),
        "seed": seed,
    }


def check(parity: dict[str, float], tolerance: Tolerance) -> None:
    """Accept measured figures or fail.

    Raises:
        ParityError: a figure is out of tolerance (or is no number).
    """
    distance, share = parity["x0_relative_l2"], parity["sr_close_share"]
    if not distance <= tolerance.x0:
        raise ParityError(
            f"x_0 of the exported graph is {distance:.1e} (relative L2) from eager PyTorch, "
            f"more than {tolerance.x0:.1e}; no bundle was written"
        )
    if not share >= tolerance.close_share:
        raise ParityError(
            f"only {share:.2%} of the exported graph's output is within 1/255 of eager PyTorch, "
            f"less than {tolerance.close_share:.2%}; no bundle was written"
        )
