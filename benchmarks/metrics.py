"""How good a picture is: against its original, and in the eyes of trained networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsFloat

import cv2
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
        color: mean CIEDE2000 colour difference, of all channels.
    """

    psnr: float
    ssim: float
    sharpness: float
    color: float


def compare(upscaled: np.ndarray, original: np.ndarray) -> Quality:
    """Compare two uint8 (H, W, 3) RGB pictures."""
    from skimage.color import deltaE_ciede2000, rgb2lab, rgb2ycbcr
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
        float(deltaE_ciede2000(*(rgb2lab(p[inner]) for p in (original, upscaled))).mean()),
    )


def perceptual() -> tuple[dict[str, Metric], dict[str, str]]:
    """The field's metrics that this machine has, and why it lacks the others.

    BRISQUE comes with a package that holds its parameters, the others through pyiqa.
    """
    there, lacking = {}, {}
    try:
        there["brisque"] = _brisque()
    except ImportError as error:
        lacking["brisque"] = f"{error.name} is not installed"
    names = (*FULL_REFERENCE, *NO_REFERENCE)
    try:
        import pyiqa
    except ImportError:
        return there, lacking | dict.fromkeys(names, "pyiqa is not installed")
    for name in names:
        try:
            there[name] = _metric(pyiqa.create_metric(name), name in FULL_REFERENCE)
        except Exception as error:  # whatever its download or its network raises
            lacking[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    return there, lacking


def _brisque() -> Metric:
    """BRISQUE (Mittal et al., 2012), no reference; lower is better, natural pictures have 0 to 30.

    The package's own `score` fails with NumPy 2, which no longer takes arrays for numbers.
    """
    from brisque import BRISQUE
    from skimage.color import rgb2gray

    model = BRISQUE()

    def measure(picture: np.ndarray, original: np.ndarray | None) -> float:
        grey = rgb2gray(picture)
        half = cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_CUBIC)
        features = [
            np.asarray(value).item()
            for each in (grey, half)
            for value in model.calculate_brisque_features(each, 7, 7 / 6)
        ]
        return float(model.calculate_image_quality_score(np.array(features)))

    return measure


def _metric(network: Callable[..., SupportsFloat], full_reference: bool) -> Metric:
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
