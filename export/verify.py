"""An exported graph held against the eager chain, on fresh random input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lpnsr.export.unroll import CATEGORY, LATENT
from lpnsr.models.atd import Category
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
        (dB, against a range of 2), `seed`, and, where a network sorts tokens into categories,
        `category_share` (share of equal ones, least of all layers). A near-tie that falls
        differently moves all tokens after it, so what follows is compared on equal categories.

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
    outputs = [output.name for output in session.get_outputs()]
    found = dict(zip(outputs, session.run(outputs, {"lr": lr, "noise": noise}), strict=True))
    sr, x0 = found["sr"], found[LATENT]
    categories = [found[name] for name in outputs if name.startswith(CATEGORY)]
    del session

    with torch.no_grad(), _decided(chain, categories) as shares:
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
        **({"category_share": min(shares)} if shares else {}),
    }


@contextmanager
def _decided(chain: Chain, categories: Sequence[np.ndarray]) -> Iterator[list[float]]:
    """Let the eager chain sort tokens into these categories; gives the shares it agrees with."""
    shares: list[float] = []

    def decide(_module: nn.Module, _inputs: object, own: Tensor) -> Tensor:
        given = torch.from_numpy(categories[len(shares)])
        shares.append(float((own == given).float().mean()))
        return given

    with ExitStack() as hooks:
        for module in chain.modules():
            if isinstance(module, Category):
                hooks.callback(module.register_forward_hook(decide).remove)
        yield shares


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
    if not parity.get("category_share", 1.0) >= tolerance.category_share:
        raise ParityError(
            f"the exported graph puts only {parity['category_share']:.2%} of the tokens into the "
            f"categories of eager PyTorch, less than {tolerance.category_share:.2%}; "
            "no bundle was written"
        )
