"""A tiny bundle and a picture, so that the runtime is tested without any trained model."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lpnsr.kernels.recurrence import DENOISE, END, NOISE, START, Step
from lpnsr.runtime.backends.host_pictures import HostSession
from lpnsr.runtime.backends.session import Backend
from lpnsr.runtime.manifest import MANIFEST, Graph, Manifest, StageGraph

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
        "precision": {"denoiser": "fp32"},
        "graphs": tuple(graphs),
        "files": {g.file: digest(folder / g.file) for g in graphs},
        "versions": {"onnx": onnx.__version__},
    }
    (folder / MANIFEST).write_text(Manifest(**{**fields, **changes}).to_json(), encoding="utf-8")
    return folder


STEPS = (
    Step(1.0, 0.0, 0.0, 0.3, 0.5, False),
    Step(0.6, 0.4, 0.0, 0.2, 0.7, True),
    Step(0.5, 0.3, 0.2, 0.1, 0.9, False),
    Step(0.5, 0.5, 0.0, 0.0, 1.0, False),
)


def write_staged_bundle(folder: Path, tile: tuple[int, int] = (32, 32), batch: int = 2) -> Path:
    """A staged bundle of small random convolutions."""
    folder.mkdir(parents=True)
    latent = [batch, CHANNELS, *tile]
    large = [batch, 3, SCALE * tile[0], SCALE * tile[1]]
    sizes = {"lr": [batch, 3, *tile], "picture": large, "sr": large, "step": [1]}
    pictures = {
        "pre_upsampler": (["lr"], ["picture"], START),
        "encoder": (["picture"], ["y"], START),
        "denoiser": (["scaled", "lr", "step"], ["x0"], DENOISE),
        "noise_predictor": (["state", "x0", "lr", "step"], ["mean", "logvar"], NOISE),
        "decoder": (["state"], ["sr"], END),
    }
    rng, node, stages = np.random.default_rng(0), helper.make_node, []
    for name, (takes, gives, phase) in pictures.items():
        nodes, weights, joined = [], [], [take for take in takes if take != "step"]
        channels = sum(sizes.get(take, latent)[1] for take in joined)
        nodes.append(node("Concat", joined, ["joined"], axis=1))
        source, side = "joined", 1
        if name in ("pre_upsampler", "decoder"):
            weights.append(numpy_helper.from_array(np.array([1, 1, 4, 4], np.float32), "scales"))
            nodes.append(node("Resize", ["joined", "", "scales"], ["up"], mode="nearest"))
            source = "up"
        if name == "encoder":
            side = SCALE
        for give in gives:
            out = sizes.get(give, latent)[1]
            weight = rng.standard_normal((out, channels, side, side)) / (side * channels**0.5)
            weights.append(numpy_helper.from_array(weight.astype(np.float32), f"{give}_w"))
            nodes.append(node("Conv", [source, f"{give}_w"], [f"{give}_c"], strides=[side, side]))
            if "step" in takes:
                nodes.append(node("Cast", ["step"], [f"{give}_s"], to=TensorProto.FLOAT))
                nodes.append(node("Add", [f"{give}_c", f"{give}_s"], [f"{give}_a"]))
            nodes.append(node("Tanh", [f"{give}_{'a' if 'step' in takes else 'c'}"], [give]))
        file = f"toy_{name}.onnx"
        values = [
            helper.make_tensor_value_info(
                value,
                TensorProto.INT64 if value == "step" else TensorProto.FLOAT,
                sizes.get(value, latent),
            )
            for value in (*takes, *gives)
        ]
        graph = helper.make_graph(nodes, name, values[: len(takes)], values[len(takes) :], weights)
        opset = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / file)
        stages.append(StageGraph(name, file, tuple(takes), tuple(gives), phase))
    graph = Graph("", tile, batch, {}, stages=tuple(stages))
    manifest = Manifest(
        preset="toy",
        scale=SCALE,
        latent_channels=CHANNELS,
        draws=3,
        schedule={"steps": 3.0},
        precision={name: "fp32" for name in pictures},
        graphs=(graph,),
        files={stage.file: digest(folder / stage.file) for stage in stages},
        versions={"onnx": onnx.__version__},
        topology="staged",
        steps=STEPS,
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def photo(height: int, width: int) -> np.ndarray:
    """A smooth colourful uint8 picture (height, width, 3) without white."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / 7 + k) * np.cos(x / 9 - k) for k in range(3)]
    return np.rint(np.stack(waves, axis=-1) * 90 + 120).astype(np.uint8)


class Grey(Backend):
    """A backend that returns grey and notes its inputs."""

    threads = 1

    def __init__(self, lanes=1):
        self.calls, self.loaded, self.lanes = [], [], lanes

    def divided(self, count):
        """Itself, for as many batches at a time as were asked for."""
        return self

    def load(self, bundle, graph):
        self.loaded.append(graph)
        return GreySession(self, bundle, graph)

    def run(self, lr, noise):
        self.calls.append((lr, noise))
        batch, channels, height, width = lr.shape
        return np.zeros((batch, channels, SCALE * height, SCALE * width), np.float32)

    def run_precisely(self, lr, noise):
        return self.run(lr, noise)

    def describe(self):
        return "grey"


class GreySession(HostSession):
    def __init__(self, backend, bundle, graph):
        super().__init__(bundle, graph, backend.lanes)
        self.run, self.run_precisely = backend.run, backend.run_precisely

    def run(self, lr, noise):
        """Replaced by that of the backend."""
