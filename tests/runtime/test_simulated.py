"""The simulated GPU and TensorRT against the real ones, whose modules load without a GPU."""

import inspect
import re

import pytest

from lpnsr.kernels import cuda

from . import simulated

trt = pytest.importorskip("tensorrt_rtx", reason="the extra tensorrt-rtx is not installed")
core = pytest.importorskip("cuda.core", reason="the extra tensorrt-rtx is not installed")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (simulated.CudaEngine, [trt.ICudaEngine]),
        (simulated.Context, [trt.IExecutionContext]),
        (simulated.Config, [trt.IRuntimeConfig, trt.IRuntimeCache]),
        (simulated.tensorrt(trt, simulated.Gpu(0)).Runtime, [trt.Runtime]),
        (simulated.Gpu, [core.Device]),
        (simulated.Stream, [core.Stream]),
        (simulated.Event, [core.Event]),
        (simulated.Buffer, [core.Buffer]),
        (simulated.PinnedMemory, [core.LegacyPinnedMemoryResource]),
        (simulated.Builder, [core.graph.GraphBuilder]),
        (simulated.Graph, [core.graph.Graph]),
        (simulated.Kernel, [cuda.ResidualShift]),
    ],
    ids=lambda kind: getattr(kind, "__name__", ""),
)
def test_the_simulation_has_the_real_methods(ours, theirs):
    """Their names, and that they are called with arguments that the real ones take."""
    own = {"compute", "step", "idle", "wait_until", "put", "is_ready", "work", "replays"}
    for name in vars(ours).keys() - own:
        if not name.startswith("_"):
            (real,) = (getattr(kind, name) for kind in theirs if hasattr(kind, name))
            if callable(getattr(ours, name)):
                assert accepts(real, getattr(ours, name)), name


def accepts(real, ours):
    """Whether a method takes as many arguments as ours, and its keywords."""
    parameters = inspect.signature(ours).parameters.values()
    by_place = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = {p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY}
    return any(takes(signature, by_place, by_name) for signature in signatures(real))


def takes(signature, places, names):
    try:
        signature.bind(*places, **names)
    except TypeError:
        return False
    return True


def signatures(method):
    """Those of a method, which pybind11 writes only into its documentation, one for a line."""
    try:
        return [inspect.signature(method)]
    except ValueError:
        lines = re.findall(rf"^(?:\d+\. )?{method.__name__}\((self.*)\) -> ", method.__doc__, re.M)
        return [inspect.Signature(list(map(parameter, split(line)))) for line in lines]


def split(line):
    return re.split(r", (?=\w+: )", line)


def parameter(text):
    default = None if " = " in text else inspect.Parameter.empty
    name, kind = text.split(":")[0], inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, kind, default=default)


@pytest.mark.parametrize(
    ("method", "fine", "wrong"),
    [
        (trt.IExecutionContext.set_device_memory, lambda self, memory, size: 0, lambda self, m: 0),
        (trt.ICudaEngine.create_execution_context, lambda self, config: 0, lambda self, a, b, c: 0),
        (core.Buffer.copy_from, lambda self, other, *, stream: 0, lambda self, other: 0),
        (core.Stream.sync, lambda self: 0, lambda self, event: 0),
    ],
    ids=lambda value: value.__name__.strip("<>"),
)
def test_another_number_of_arguments_is_noticed(method, fine, wrong):
    assert accepts(method, fine)
    assert not accepts(method, wrong)
