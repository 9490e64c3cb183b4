"""Model repositories of Triton, whose model.py runs with a stand-in for Triton's own module."""

import importlib.util
import json
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from runtime.toy import photo, write_bundle

from lpnsr.export import cli
from lpnsr.export.triton import repository
from lpnsr.runtime.backends.onnxruntime import OnnxRuntimeSession
from lpnsr.runtime.bundle import Bundle
from lpnsr.runtime.manifest import BundleError
from lpnsr.runtime.upscaler import Upscaler

SEED = 2**64 - 1


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Batches of three alone; do not change its files."""
    return write_bundle(tmp_path_factory.mktemp("bundle") / "toy", batches=(3,))


@pytest.fixture(scope="module")
def models(bundle, tmp_path_factory):
    """A model repository; do not change its files."""
    folder = tmp_path_factory.mktemp("models")
    repository.write(Bundle.open(bundle), folder)
    return folder


class Tensor:
    """A tensor that is handed over by DLPack alone, as both sides do it."""

    def __init__(self, name, source):
        self.name, self._source = name, source

    def __dlpack__(self, **_):
        return self._source.__dlpack__()

    def __dlpack_device__(self):
        return 1, 0

    @classmethod
    def from_dlpack(cls, name, capsule):
        given = SimpleNamespace(__dlpack__=lambda: capsule)
        return np.array(np.from_dlpack(cls(name, given)))


class Error(Exception):
    INVALID_ARG, INTERNAL = "invalid", "internal"

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class Request:
    """A request, its answer and the event of the latter."""

    def __init__(self, pixels, seed=None, **parameters):
        self.tensors = {"IMAGE": Tensor("IMAGE", pixels)}
        if seed is not None:
            self.tensors["SEED"] = Tensor("SEED", np.array([seed], np.uint64))
        self._parameters, self._arrived = parameters, threading.Event()

    def parameters(self):
        return json.dumps(self._parameters) if self._parameters else ""

    def get_response_sender(self):
        return self

    def send(self, response, flags):
        assert flags == "final"
        self._response = response
        self._arrived.set()

    def answer(self):
        assert self._arrived.wait(60)
        return self._response


@pytest.fixture
def model(models, monkeypatch):
    """The repository's model, initialized as Triton does it."""
    log = []
    stand_in = SimpleNamespace(
        Tensor=Tensor,
        TritonError=Error,
        InferenceResponse=lambda tensors=(), error=None: error or tensors[0],
        Logger=SimpleNamespace(log_info=log.append, log_error=log.append),
        TRITONSERVER_RESPONSE_COMPLETE_FINAL="final",
        get_input_tensor_by_name=lambda request, name: request.tensors.get(name),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)
    file = models / "toy" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("model", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = {"backend": "onnxruntime", "precision": "auto", "threads": "1"}
    settings["max_megapixels"] = "0.05"
    config = {"parameters": {name: {"string_value": text} for name, text in settings.items()}}
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
            "model_repository": str(models / "toy"),
            "model_version": "1",
            "model_name": "toy",
        }
    )
    assert "toy: ONNX Runtime" in log[0]
    yield model
    model.finalize()


def test_many_requests_at_once(model, bundle):
    pictures = [photo(20 + k, 70 - k) for k in range(20)]
    requests = [Request(picture, SEED - k) for k, picture in enumerate(pictures)]
    for request in requests:  # one by one, as Triton hands over what it cannot batch
        model.execute([request])
    upscaler = Upscaler.from_bundle(bundle, backend="onnxruntime")
    for k, (request, picture) in enumerate(zip(requests, pictures, strict=True)):
        np.testing.assert_array_equal(request.answer(), upscaler.upscale(picture, seed=SEED - k))


def test_requests_share_batches(model, monkeypatch):
    """The first one computes alone; those that come meanwhile fill the next batch."""
    run, calls, gate = OnnxRuntimeSession.run, [], threading.Event()

    def gated(session, lr, noise):
        calls.append(session)
        assert gate.wait(60)
        return run(session, lr, noise)

    monkeypatch.setattr(OnnxRuntimeSession, "run", gated)
    requests = [Request(photo(20, 20)) for _ in range(4)]
    model.execute(requests[:1])
    while not calls:
        time.sleep(0.02)
    model.execute(requests[1:])
    while len(calls[0].batches._waiting) < 3:
        time.sleep(0.02)
    gate.set()
    assert len({request.answer().tobytes() for request in requests}) == 1
    assert len(calls) == 2


def test_parameters_are_those_of_the_server(model, bundle):
    picture = photo(30, 40)
    plain, options = Request(picture), Request(picture, deterministic=True, seed=3, width=80)
    model.execute([plain, options])
    upscaler = Upscaler.from_bundle(bundle, backend="onnxruntime")
    np.testing.assert_array_equal(plain.answer(), upscaler.upscale(picture))
    assert options.answer().shape == (60, 80, 3)


@pytest.mark.parametrize(
    ("request_", "message", "code"),
    [
        (Request(photo(8, 8), sed=1), "there is no option 'sed'", "invalid"),
        (Request(photo(8, 8), format="png"), "arrays have no format", "invalid"),
        (Request(photo(300, 300)), "the picture has 0.1 million pixels, 0.05 are", "invalid"),
        (Request(photo(8, 8) * 0 + 255), "the model returns NaN", "internal"),
        (Request(np.zeros((0, 4, 3), np.uint8)), "the picture has no pixels", "invalid"),
    ],
)
def test_errors_reach_who_asked(model, request_, message, code):
    model.execute([request_, good := Request(photo(9, 9))])
    error = request_.answer()
    assert (message in str(error), error.code) == (True, code)
    assert good.answer().shape == (36, 36, 3)


def test_an_engine_that_fails_is_told_too(model, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("the engine is gone")

    monkeypatch.setattr(model._upscaler, "bands", fail)
    model.execute([request := Request(photo(8, 8))])
    assert (str(request.answer()), request.answer().code) == ("the engine is gone", "internal")


def test_the_folder(models, bundle):
    files = {str(path.relative_to(models)) for path in models.rglob("*") if path.is_file()}
    inside = {f"toy/1/bundle/{path.name}" for path in bundle.iterdir()}
    assert files == {"toy/config.pbtxt", "toy/1/model.py", *inside}
    text = (models / "toy" / "config.pbtxt").read_text()
    assert 'name: "toy"' in text and "KIND_CPU" in text and "$" not in text


def test_the_command_puts_a_bundle_into_a_repository(bundle, tmp_path, capsys):
    words = ["--bundle", str(bundle), "--triton", str(tmp_path / "models")]
    assert cli.main(words) == 0
    target = tmp_path / "models" / "toy"
    assert capsys.readouterr().out == f"{target}\n"
    (target / "1" / "old").touch()
    assert cli.main(words) == 2
    assert "exists; add --force" in capsys.readouterr().err
    assert cli.main([*words, "--force"]) == 0
    assert not (target / "1" / "old").exists()
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["toy"]


def test_nothing_else_is_replaced(bundle, tmp_path):
    (tmp_path / "toy").mkdir()
    with pytest.raises(BundleError, match="is not a Triton model"):
        repository.write(Bundle.open(bundle), tmp_path, force=True)


def test_it_does_not_go_with_verify(bundle, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--verify", str(bundle), "--triton", str(tmp_path)])
    assert end.value.code == 2
    assert "use --bundle" in capsys.readouterr().err
