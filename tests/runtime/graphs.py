"""Small graphs, and what is asked of them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpnsr.kernels import operators

built = pytest.mark.skipif(operators.library() is None, reason="built without vector types")
node = helper.make_node


def graph_model(nodes, inputs, outputs, between, constants):
    """A model of nodes.

    The tensors are name -> shape, but for the constants, name -> array.
    """
    graph = helper.make_graph(
        nodes,
        "graph",
        *([tensor(name, *shape) for name, shape in given.items()] for given in (inputs, outputs)),
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        value_info=[tensor(name, *shape) for name, shape in between.items()],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


def tensor(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def kinds(content):
    return [n.op_type for n in onnx.load_from_string(content).graph.node]


def run(content, threads=1, custom=True, **given):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    if custom:
        options.register_custom_ops_library(str(operators.library()))
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    made = np.random.default_rng(1)
    names = {i.name: i.shape for i in session.get_inputs()}
    given = {n: given.get(n, made.standard_normal(s, np.float32)) for n, s in names.items()}
    return session.run(None, given)
