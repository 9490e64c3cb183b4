"""How good a picture is: against its original, and in the eyes of trained networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

BORDER = 4
FULL_REFERENCE = ("lpips", "dists")
NO_REFERENCE = ("niqe", "musiq", "maniqa", "clipiqa")

Metric = Callable[[np.ndarray, np.ndarray | None], float | None]


@dataclass(frozen=True)
class Quality:
    """One upscaled photograph against its original, on luma, without a border of 4 pixels.

    Attributes:
        psnr: in dB; luma by BT.601, as in MATLAB.
        ssim: structural similarity with a Gaussian window, as first published.
        sharpness: gradient energy as a share of the original's.
    """

    psnr: float
    ssim: float
    sharpness: float


def compare(upscaled: np.ndarray, original: np.ndarray) -> Quality:
    """Compare two uint8 (H, W, 3) RGB pictures."""
    from skimage.color import rgb2ycbcr
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    inner = (slice(BORDER, -BORDER),) * 2
    ours, theirs = (rgb2ycbcr(picture)[..., 0][inner] for picture in (upscaled, original))
    similarity = structural_similarity(
        theirs, ours, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return Quality(
        float(peak_signal_noise_ratio(theirs, ours, data_range=255)),
        float(similarity),
        _gradient_energy(ours) / _gradient_energy(theirs),
    )


def perceptual() -> tuple[dict[str, Metric], dict[str, str]]:
    """The field's metrics that this machine has through pyiqa, and why it lacks the others."""
    names = (*FULL_REFERENCE, *NO_REFERENCE)
    try:
        import pyiqa
    except ImportError:
        return {}, dict.fromkeys(names, "pyiqa is not installed")
    there, lacking = {}, {}
    for name in names:
        try:
            there[name] = _metric(pyiqa.create_metric(name), name in FULL_REFERENCE)
        except Exception as error:  # whatever its download or its network raises
            lacking[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return there, lacking


def _metric(network: Callable[..., object], full_reference: bool) -> Metric:
    import torch

    def tensor(picture: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None] / 255

    def measure(picture: np.ndarray, original: np.ndarray | None) -> float | None:
        if not full_reference:
            return float(network(tensor(picture)))
        return None if original is None else float(network(tensor(picture), tensor(original)))

    return measure


def _gradient_energy(luma: np.ndarray) -> float:
    return float(sum(np.square(np.diff(luma, axis=axis)).mean() for axis in (0, 1)))
