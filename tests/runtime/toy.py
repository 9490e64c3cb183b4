"""A tiny bundle and a picture, so that the runtime is tested without any trained model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpnsr.runtime.bundle import MANIFEST, Graph, Manifest

SCALE, CHANNELS, DRAWS = 4, 5, 3
TILES = ((32, 32), (64, 64), (32, 64))
BATCHES = (1, 3)


def toy_graph(
    path: Path, tile: tuple[int, int], batch: int, noise_gain: float = 0.1, fragile: bool = True
) -> None:
    """sr = clamp(linear x4 resize of lr + gain * (noise[0, :, :3] + 2 * noise[-1, :, 2:5]) x4).

    If fragile, non-finite where lr is exactly white, to test that this is noticed.
    """
    (height, width) = tile
    constants = {
        "scales": np.array([1, 1, SCALE, SCALE], np.float32),
        "first": np.array([0], np.int64),
        "last": np.array([DRAWS - 1], np.int64),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "two": np.array([2], np.int64),
        "three": np.array([3], np.int64),
        "five": np.array([5], np.int64),
        "draw_axis": np.array([0], np.int64),
        "channel_axis": np.array([1], np.int64),
        "twice": np.array(2, np.float32),
        "gain": np.array(noise_gain, np.float32),
        "low": np.array(-1, np.float32),
        "high": np.array(1, np.float32),
        "deadly": np.array(1 if fragile else 9, np.float32),
    }
    node = helper.make_node
    nodes = [
        node("Resize", ["lr", "", "scales"], ["up"], mode="linear"),
        node("Gather", ["noise", "first"], ["start5"], axis=0),
        node("Gather", ["noise", "last"], ["end5"], axis=0),
        node("Squeeze", ["start5", "draw_axis"], ["start4"]),
        node("Squeeze", ["end5", "draw_axis"], ["end4"]),
        node("Slice", ["start4", "zero", "three", "channel_axis"], ["start"]),
        node("Slice", ["end4", "two", "five", "channel_axis"], ["end"]),
        node("Mul", ["end", "twice"], ["end_twice"]),
        node("Add", ["start", "end_twice"], ["z"]),
        node("Mul", ["z", "gain"], ["z_gain"]),
        node("Resize", ["z_gain", "", "scales"], ["z_up"], mode="nearest"),
        node("Add", ["up", "z_up"], ["sum"]),
        node("Clip", ["sum", "low", "high"], ["clipped"]),
        node("GreaterOrEqual", ["up", "deadly"], ["white"]),
        node("Cast", ["white"], ["white_float"], to=TensorProto.FLOAT),
        node("Sub", ["high", "white_float"], ["not_white"]),
        node("Div", ["clipped", "not_white"], ["sr"]),
    ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [
            helper.make_tensor_value_info("lr", TensorProto.FLOAT, [batch, 3, height, width]),
            helper.make_tensor_value_info(
                "noise", TensorProto.FLOAT, [DRAWS, batch, CHANNELS, height, width]
            ),
        ],
        [
            helper.make_tensor_value_info(
                "sr", TensorProto.FLOAT, [batch, 3, SCALE * height, SCALE * width]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def write_bundle(
    folder: Path,
    noise_gain: float = 0.1,
    fragile: bool = True,
    tiles: Sequence[tuple[int, int]] = TILES,
    batches: Sequence[int] = BATCHES,
    **changes: object,
) -> Path:
    """A bundle of toy graphs; `changes` replace fields of its manifest."""
    folder.mkdir(parents=True)
    graphs = []
    for tile in tiles:
        for batch in batches:
            name = f"toy-{tile[0]}x{tile[1]}-b{batch}.onnx"
            toy_graph(folder / name, tile, batch, noise_gain, fragile)
            graphs.append(Graph(name, tile, batch, {"max_abs": 0.0}))
    fields = {
        "preset": "toy",
        "scale": SCALE,
        "latent_channels": CHANNELS,
        "draws": DRAWS,
        "schedule": {"steps": 3.0},
        "precision": {"denoiser": "float32"},
        "graphs": tuple(graphs),
        "files": {g.file: digest(folder / g.file) for g in graphs},
        "versions": {"onnx": onnx.__version__},
    }
    (folder / MANIFEST).write_text(Manifest(**{**fields, **changes}).to_json(), encoding="utf-8")
    return folder


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def photo(height: int, width: int) -> np.ndarray:
    """A smooth colourful uint8 picture (height, width, 3) without white."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / 7 + k) * np.cos(x / 9 - k) for k in range(3)]
    return np.rint(np.stack(waves, axis=-1) * 90 + 120).astype(np.uint8)
