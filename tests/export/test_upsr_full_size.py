"""UPSR as users run it, on full-size weights, and the authors' picture."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from lpnsr.runtime.bundle import Bundle

pytestmark = pytest.mark.slow

REFERENCE = Path(__file__).parents[1] / "reference"


def command(module, *arguments):
    code = f"from lpnsr.{module}.cli import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


@pytest.fixture(scope="module")
def bundle(upsr_weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("upsr") / "bundle"
    command("export", "--preset", "upsr", "--weights", upsr_weights, "-o", path)
    yield Bundle.open(path)
    shutil.rmtree(path)


def test_parity_is_in_the_manifest(bundle):
    (graph,) = bundle.manifest.graphs
    assert graph.parity["fp32"]["x0_relative_l2"] <= 1e-4
    assert graph.parity["fp32"]["sr_close_share"] >= 0.99
    assert graph.parity["fp32"]["category_share"] >= 0.999


def test_the_authors_picture(bundle, recipe, tmp_path, assert_share):
    """With ties sorted as on the authors' processor; see tests/models/test_upsr.py."""
    file = bundle.graph_path(bundle.manifest.graphs[0])
    model = onnx.load(file, load_external_data=False)
    with np.load(REFERENCE / "upsr_orders.npz") as recorded:
        sort_as_recorded(model.graph, recorded["orders"].astype(np.int64))
    onnx.save(model, tmp_path / file.name)
    os.link(bundle.path / "weights.bin", tmp_path / "weights.bin")

    with np.load(REFERENCE / "golden_upsr.npz") as golden:
        latent = golden["x_0"]
    picture = latent.reshape(1, 3, 4, 4, 64, 64).transpose(0, 1, 4, 2, 5, 3)
    expected = picture.reshape(1, 3, 256, 256).clip(-1, 1)
    session = onnxruntime.InferenceSession(tmp_path / file.name, providers=["CPUExecutionProvider"])
    noise = recipe.noise("u/eps", (1, 48, 64, 64))[None]
    (sr,) = session.run(["sr"], {"lr": recipe.image("u/lr", 1, 64, 64), "noise": noise})
    assert_share(sr, expected, 0.99, within=2 / 255)


def sort_as_recorded(graph, orders):
    """Replace the permutations that the graph computes, and their inverses, by constants."""
    sorts = [node for node in graph.node if node.op_type == "ScatterElements"]
    assert len(sorts) == len(orders)
    for number, (node, order) in enumerate(zip(sorts, orders, strict=True)):
        for old, array in ((node.output[0], order), (node.input[1], order.argsort())):
            users = [n for n in graph.node if old in n.input and n is not node]
            assert users, "a permutation is not used under its name"
            name = f"{'order' if old == node.output[0] else 'inverse'}_{number}"
            graph.initializer.append(numpy_helper.from_array(array, name))
            for user in users:
                user.input[:] = [name if value == old else value for value in user.input]


def test_a_photograph(bundle, tmp_path):
    photo = Image.open(REFERENCE.parent / "photos" / "kodim03.png").crop((200, 100, 250, 140))
    photo.save(tmp_path / "in.png")
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    command("runtime.command", source, "-o", target, "--model", bundle.path)
    assert Image.open(tmp_path / "out.png").size == (200, 160)
