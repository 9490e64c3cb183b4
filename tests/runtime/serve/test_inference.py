"""The Open Inference Protocol v2, by its own client and by hand."""

import asyncio
import json
import re
from importlib.resources import files

import numpy as np
import pytest

pytest.importorskip("starlette", reason="needs the extra serve")

from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.pictures.images import Picture
from lpnsr.runtime.pictures.metadata import Metadata

from ..toy import photo
from .served import served

INFER = "/v2/models/toy/infer"
HEADER = "Inference-Header-Content-Length"


@pytest.fixture
def triton(client):
    http = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    connected = http.InferenceServerClient(f"127.0.0.1:{client.port}")
    connected.module = http
    yield connected
    connected.close()


def tensors(http, picture, seed=None, binary=True):
    image = http.InferInput("IMAGE", list(picture.shape), "UINT8")
    image.set_data_from_numpy(picture, binary_data=binary)
    if seed is None:
        return [image]
    number = http.InferInput("SEED", [1], "UINT64")
    number.set_data_from_numpy(np.array([seed], np.uint64), binary_data=binary)
    return [image, number]


def test_tritons_client_asks_about_the_server(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("toy")
    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = triton.get_model_metadata("toy")
    assert [entry["name"] for entry in metadata["inputs"]] == ["IMAGE", "SEED"]
    assert not triton.is_model_ready("other")
    assert triton.is_model_ready("toy", "1") and not triton.is_model_ready("toy", "2")
    assert triton.get_model_metadata("toy", "1") == metadata


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("seed", [None, 2**64 - 1])
def test_tritons_client_gets_the_models_pixels(triton, model, binary, seed):
    http, picture = triton.module, photo(70, 40)
    asked = [http.InferRequestedOutput("UPSCALED", binary_data=binary)]
    expected = model.upscale(picture, seed=seed or 0)
    for version in ("", "1"):
        given = tensors(http, picture, seed, binary)
        result = triton.infer("toy", given, version, outputs=asked)
        np.testing.assert_array_equal(result.as_numpy("UPSCALED"), expected)


def test_tritons_asynchronous_client(client, model):
    http = pytest.importorskip("tritonclient.http.aio", reason="needs tritonclient[http]")
    pictures = [photo(20 + k, 30) for k in range(4)]

    async def infer_all():
        async with http.InferenceServerClient(f"127.0.0.1:{client.port}") as connected:
            asked = [connected.infer("toy", tensors(http, picture)) for picture in pictures]
            return await asyncio.gather(*asked)

    for picture, result in zip(pictures, asyncio.run(infer_all()), strict=True):
        np.testing.assert_array_equal(result.as_numpy("UPSCALED"), model.upscale(picture))


def test_tritons_client_gives_options_as_parameters(triton, model):
    picture = photo(40, 30)
    options = {"seed": 3, "deterministic": True, "color_fix": False, "width": 50}
    result = triton.infer(
        "toy", tensors(triton.module, picture), parameters=options, request_id="number 5"
    )
    recipe = Recipe(seed=3, deterministic=True, color_fix=False, width=50)
    bands = recipe.bands(model, Picture(picture, Metadata(), ()), 3, np.dtype(np.uint8))
    np.testing.assert_array_equal(result.as_numpy("UPSCALED"), np.concatenate(list(bands)))
    assert result.get_response()["id"] == "number 5"


def test_tritons_client_is_told_what_is_wrong(triton):
    from tritonclient.utils import InferenceServerException

    with pytest.raises(InferenceServerException, match="there is no option 'sed'"):
        triton.infer("toy", tensors(triton.module, photo(8, 8)), parameters={"sed": 1})
    with pytest.raises(InferenceServerException, match="compressed"):
        triton.infer(
            "toy", tensors(triton.module, photo(8, 8)), request_compression_algorithm="gzip"
        )


def image(**changes):
    return {"name": "IMAGE", "shape": [1, 2, 3], "datatype": "UINT8", "data": [1] * 6} | changes


def test_numbers_in_json(client, model):
    nested = [[[1, 2, 3], [4, 5, 6]]]
    answer = client("POST", INFER, json.dumps({"inputs": [image(data=nested)]}))
    output = answer.json()["outputs"][0]
    found = np.array(output["data"], np.uint8).reshape(output["shape"])
    np.testing.assert_array_equal(found, model.upscale(np.array(nested, np.uint8)))


SEED = {"name": "SEED", "shape": [1], "datatype": "UINT64", "data": [1]}


@pytest.mark.parametrize(
    "request_",
    [
        [],
        {},
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": [SEED]},
        {"inputs": [image(), image()]},
        {"inputs": [image(), {"name": "MASK", "shape": [1], "datatype": "UINT8", "data": [1]}]},
        {"inputs": [image(datatype="FP32")]},
        {"inputs": [image(shape=[1, 2])]},
        {"inputs": [image(shape=[1, 1, 6])]},
        {"inputs": [image(shape=[0, 2, 3], data=[])]},
        {"inputs": [image(shape=[-1, 2, 3])]},
        {"inputs": [image(shape=[1, True, 3])]},
        {"inputs": [image(shape=[2**40, 2**40, 3])]},
        {"inputs": [image(data=[1] * 5)]},
        {"inputs": [image(data=[256] * 6)]},
        {"inputs": [image(data=[-1] * 6)]},
        {"inputs": [image(data=[0.5] * 6)]},
        {"inputs": [image(data=["1"] * 6)]},
        {"inputs": [image(data=[[1, 2], [3, 4, 5], 6])]},
        {"inputs": [image(data=None)]},
        {"inputs": [image(parameters={"binary_data_size": 6})]},
        {"inputs": [image(parameters={"binary_data_size": -6})]},
        {"inputs": [image(parameters={"binary_data_size": "6"})]},
        {"inputs": [image(parameters=[])]},
        {"inputs": [image(), SEED | {"shape": [2], "data": [1, 1]}]},
        {"inputs": [image(), SEED | {"data": [2**64]}]},
        {"inputs": [image(), SEED | {"data": [-1]}]},
        {"inputs": [image()], "outputs": [{"name": "OTHER"}]},
        {"inputs": [image()], "outputs": "UPSCALED"},
        {"inputs": [image()], "parameters": {"format": "png"}},
        {"inputs": [image()], "parameters": {"seed": {}}},
        {"inputs": [image()], "parameters": 5},
        {"inputs": [image()], "id": 5},
    ],
)
def test_requests_that_are_none(client, request_):
    answer = client("POST", INFER, json.dumps(request_))
    assert answer.status == 400
    assert answer.error


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[" * 100_000, {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"", {}, 400),
        (b"{}", {HEADER: "3"}, 400),
        (b"{}", {HEADER: "-1"}, 400),
        (b"{}", {HEADER: "two"}, 400),
        (json.dumps({"inputs": [image()]}).encode() + b"rest", {}, 400),
        (b" " * 5_000_000, {}, 413),
        (b"{}", {"Content-Encoding": "gzip"}, 415),
    ],
)
def test_bodies_that_are_no_requests(client, body, headers, status):
    answer = client("POST", INFER, body, headers)
    assert (answer.status, bool(answer.error)) == (status, True)


def test_bytes_behind_the_tensors(client):
    text = json.dumps({"inputs": [image()]}).encode()
    answer = client("POST", INFER, text + b"more", {HEADER: str(len(text))})
    assert (answer.status, answer.error[:19]) == (400, "4 bytes are left ov")


def test_pictures_that_are_too_large(model):
    with served(model, megapixels=0.001) as small:
        given = image(shape=[40, 40, 3], data=[1] * 4800)
        answer = small("POST", INFER, json.dumps({"inputs": [given]}))
        assert (answer.status, "0.001 are allowed" in answer.error) == (413, True)


def test_the_example_of_the_readme(client):
    pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")
    text = (files("lpnsr.runtime.serve") / "README.md").read_text(encoding="utf-8")
    code = re.search("```python\n(.*?)```", text, re.DOTALL)[1]
    names = {}
    exec(code.replace("8000", str(client.port)).replace("lpnsr-tiny", "toy"), names)
    assert names["large"].shape == (192, 256, 3)
    names["client"].close()
