"""Opens the model that a command line asks for."""

from __future__ import annotations

import argparse
import os

import cv2
from PIL import Image

from lpnsr.runtime.upscaler import Upscaler


def prepare(args: argparse.Namespace) -> None:
    """Set what holds for the whole process: the limit of pictures, CPU threads, GPUs' order."""
    Image.MAX_IMAGE_PIXELS = int(args.max_megapixels * 5e5)  # Pillow refuses twice that
    if args.threads:
        cv2.setNumThreads(args.threads)
    # As nvidia-smi does it; the CUDA driver, which is not loaded yet, puts the fastest first.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")


def upscaler(args: argparse.Namespace) -> Upscaler:
    """The upscaler of the arguments of `add_model` and `add_engine`; raises what it raises."""
    return Upscaler.from_bundle(
        args.model,
        backend=args.backend,
        device=None if args.gpu is None else f"cuda:{args.gpu}",
        tile=args.tile,
        batch=args.batch,
        overlap=args.overlap,
        threads=args.threads,
        precision=args.precision,
    )
