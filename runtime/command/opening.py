"""Opens the model that a command line asks for."""

from __future__ import annotations

import argparse
import os

import cv2
from PIL import Image

from lpnsr.runtime.upscaler import Upscaler


def prepare(megapixels: float, threads: int | None) -> None:
    """Set what holds for the whole process.

    Args:
        megapixels: most millions of pixels of an input.
        threads: CPU threads; None for what the libraries take.
    """
    Image.MAX_IMAGE_PIXELS = int(megapixels * 5e5)  # Pillow refuses twice that
    if threads:
        cv2.setNumThreads(threads)
    # As nvidia-smi does it; the CUDA driver, which is not loaded yet, puts the fastest first.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def device(gpu: int | None) -> str | None:
    """What an upscaler calls the GPU of this number."""
    return None if gpu is None else f"cuda:{gpu}"


def upscaler(args: argparse.Namespace) -> Upscaler:
    """The upscaler of the arguments of `add_model` and `add_engine`; raises what it raises."""
    return Upscaler.from_bundle(
        args.model,
        backend=args.backend,
        device=device(args.gpu),
        tile=args.tile,
        batch=args.batch,
        overlap=args.overlap,
        threads=args.threads,
        precision=args.precision,
    )
