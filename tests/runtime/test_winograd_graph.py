"""Other nodes that become one of our own: norms, upsampling and attention in ONNX graphs."""

import numpy as np
import pytest

from lpnsr.export.graph.passes.upsample_phases import phase_kernels
from lpnsr.kernels import operators
from lpnsr.runtime.backends.winograd_graph import with_winograd

from .graphs import built, graph_model, kinds, node, run

SHIFTED = [node("Mul", ["i", "scale"], ["m"]), node("Add", ["shift", "m"], ["n"])]
NORM = [
    node("Reshape", ["x", "flat"], ["g"]),
    node("InstanceNormalization", ["g", "ones", "zeros"], ["h"], epsilon=0.1),
    node("Reshape", ["h", "whole"], ["i"]),
    *SHIFTED,
]
AGAIN = [node("Mul", ["scale", "n"], ["o"]), node("Add", ["o", "shift"], ["p"])]


def swish(name, output="y"):
    return [node("Sigmoid", [name], ["s"]), node("Mul", ["s", name], [output])]


def norm_model(*nodes, batch=2, channels=6, groups=3, outputs=("y",)):
    """A graph from `x`, (batch, channels, 4, 5), with what a group norm consists of."""
    made, shape = np.random.default_rng(0), (batch, channels, 4, 5)
    constants = {
        "flat": np.array([batch, groups, -1]),
        "whole": np.array(shape),
        "ones": made.standard_normal(groups, np.float32),
        "zeros": made.standard_normal(groups, np.float32),
        "scale": made.standard_normal((channels, 1, 1), np.float32),
        "shift": made.standard_normal((1, channels, 1, 1), np.float32),
    }
    between = {name: shape for n in nodes for name in n.output if name not in outputs}
    between |= dict.fromkeys("gh", (batch, groups, channels * 20 // groups))
    return graph_model(nodes, {"x": shape}, dict.fromkeys(outputs, shape), between, constants)


# Nodes, outputs, and what is left of them.
NORMS = {
    "alone": ([*NORM[:2], node("Reshape", ["h", "whole"], ["y"])], ("y",), []),
    "shifted": ([*NORM, node("Abs", ["n"], ["y"])], ("y",), ["Abs"]),
    "swish": ([*NORM, *swish("n")], ("y",), []),
    "shifted twice": ([*NORM, *AGAIN, *swish("p")], ("y",), []),
    "and wanted": ([*NORM, *swish("n")], ("n", "y"), ["Sigmoid", "Mul"]),
    "only multiplied": (
        [*NORM[:4], node("Add", ["m", "x"], ["y"])], ("y",), ["Mul", "Add"],
    ),
    "the gate is wanted": (
        [*NORM, *swish("n", "t"), node("Sub", ["s", "t"], ["y"])],
        ("y",), ["Sigmoid", "Mul", "Sub"],
    ),
}  # fmt: skip


@built
@pytest.mark.parametrize("name", NORMS)
def test_a_group_norm_becomes_one_node(name):
    nodes, outputs, left = NORMS[name]
    content = norm_model(*nodes, outputs=outputs)
    changed = with_winograd(content)
    assert kinds(changed) == [operators.GROUP_NORM, *left]
    alone = run(changed)
    for found, expected in zip(alone, run(content, custom=False), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    for found, expected in zip(run(changed, threads=2), alone, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_other_norms_stay():
    wanted = [*NORM[:2], node("Reshape", ["h", "whole"], ["y"]), node("Abs", ["g"], ["a"])]
    content = norm_model(*wanted, outputs=("y", "a"))
    assert with_winograd(content) == content


def upsampling_model(*after, order=(0, 1, 2, 3), side=16):
    made, channels = np.random.default_rng(0), 16
    weights = made.standard_normal((8, channels, 3, 3), np.float32) / 12
    constants, nodes = {"b": made.standard_normal(8, np.float32)}, []
    for phase, (kernel, pads) in enumerate(phase_kernels(weights)):
        constants[f"w{phase}"] = kernel
        nodes.append(node("Conv", ["x", f"w{phase}", "b"], [f"c{phase}"], pads=pads))
    nodes.append(node("Concat", [f"c{phase}" for phase in order], ["c"], axis=1))
    nodes.append(node("DepthToSpace", ["c"], ["d"], blocksize=2, mode="DCR"))
    output = after[-1].output[0] if after else "d"
    between = {f"c{phase}": (1, 8, side, side) for phase in range(4)}
    inputs, outputs = {"x": (1, channels, side, side)}, {output: (1, 8, 2 * side, 2 * side)}
    return graph_model([*nodes, *after], inputs, outputs, between, constants)


@built
@pytest.mark.parametrize("after", [[], [node("LeakyRelu", ["d"], ["y"], alpha=0.2)]])
def test_phases_of_an_upsampling_become_one_node(after):
    content = upsampling_model(*after)
    changed = with_winograd(content)
    assert kinds(changed) == [operators.UPSAMPLE]
    (found,), (expected,) = run(changed), run(content, custom=False)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_array_equal(run(changed, threads=2)[0], found)


@pytest.mark.parametrize("options", [{"order": (0, 2, 1, 3)}, {"order": (0, 1, 2)}, {"side": 8}])
def test_what_is_no_upsampling_stays(options):
    content = upsampling_model(**options)
    assert with_winograd(content) == content


WINDOWS, AREA, HEADS, WIDTH = 4, 16, 2, 5


def attention_model(masked=True, swapped=False, axis=-1, order=(0, 2, 1, 3), area=AREA):
    """A graph from `x`, queries, keys and values of all heads, with attention inside windows."""
    made, channels = np.random.default_rng(0), HEADS * WIDTH
    split = ["k", "q", "v"] if swapped else ["q", "k", "v"]
    scores = [node("Add", ["m", "bias"], ["b"])]
    scores += [node("Gather", ["table", "rows"], ["mask"])] if masked else []
    scores += [node("Add", ["b", "mask"], ["s"])] if masked else []
    nodes = [
        node("Split", ["x"], split, axis=2, num_outputs=3),
        *(node("Reshape", [name, "heads"], [f"{name}1"]) for name in "qkv"),
        node("Transpose", ["q1"], ["q2"], perm=(0, 2, 1, 3)),
        node("Mul", ["q2", "factor"], ["q3"]),
        node("Transpose", ["k1"], ["k2"], perm=(0, 2, 3, 1)),
        node("Transpose", ["v1"], ["v2"], perm=(0, 2, 1, 3)),
        node("MatMul", ["q3", "k2"], ["m"]),
        *scores,
        node("Softmax", ["s" if masked else "b"], ["w"], axis=axis),
        node("MatMul", ["w", "v2"], ["o"]),
        node("Transpose", ["o"], ["t"], perm=order),
        node("Reshape", ["t", "whole"], ["y"]),
    ]
    constants = {
        "heads": np.array([WINDOWS, area, HEADS, WIDTH]),
        "whole": np.array([1, WINDOWS * area, channels]),
        "factor": np.float32(0.4),
        "bias": made.standard_normal((HEADS, area, area), np.float32),
        "table": np.where(made.random((3, 1, area, area)) < 0.3, -100, 0).astype(np.float32),
        "rows": np.array([0, 2, 1, 0]),
    }
    tokens = (1, WINDOWS * area, channels)
    between = dict.fromkeys("qkv", tokens)
    between |= dict.fromkeys(["q1", "k1", "v1"], (WINDOWS, area, HEADS, WIDTH))
    return graph_model(nodes, {"x": (*tokens[:2], 3 * channels)}, {"y": tokens}, between, constants)


@built
@pytest.mark.parametrize("masked", [False, True])
def test_attention_inside_windows_becomes_one_node(masked):
    content = attention_model(masked)
    changed = with_winograd(content)
    assert kinds(changed) == [*(["Gather"] if masked else []), operators.ATTENTION]
    (found,), (expected,) = run(changed), run(content, custom=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(run(changed, threads=2)[0], found)


@pytest.mark.parametrize(
    "options", [{"swapped": True}, {"axis": 2}, {"order": (0, 1, 2, 3)}, {"area": 9}]
)
def test_other_attention_stays(options):
    content = attention_model(**options)
    assert with_winograd(content) == content
