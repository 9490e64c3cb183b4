"""Opens the model that a command line asks for."""

from __future__ import annotations

import argparse
import os

import cv2
from PIL import Image

from lpnsr.runtime.command.jobs import JobError
from lpnsr.runtime.upscaler import Upscaler


def prepare(megapixels: float, threads: int | None, gpu: int | None) -> None:
    """Set what holds for the whole process.

    Args:
        megapixels: most millions of pixels of an input.
        threads: CPU threads; None for what the libraries take.
        gpu: number of the NVIDIA GPU to use; None for the first.

    Raises:
        JobError: there is no such GPU.
    """
    Image.MAX_IMAGE_PIXELS = int(megapixels * 5e5)  # Pillow refuses twice that
    if threads:
        cv2.setNumThreads(threads)
    if gpu is not None:
        _choose_gpu(gpu)


def upscaler(args: argparse.Namespace) -> Upscaler:
    """The upscaler of the arguments of `add_model` and `add_engine`; raises what it raises."""
    return Upscaler.from_bundle(
        args.model,
        backend=args.backend,
        tile=args.tile,
        batch=args.batch,
        overlap=args.overlap,
        threads=args.threads,
        precision=args.precision,
    )


def _choose_gpu(number: int) -> None:
    """Let the CUDA driver, which is not loaded yet, show one GPU alone."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number)] * (number + 1)
    if number >= len(names):
        raise JobError(f"--gpu {number}: CUDA_VISIBLE_DEVICES shows {len(names)}, from 0")
    os.environ["CUDA_VISIBLE_DEVICES"] = names[number]
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
