"""Requests and answers of the Open Inference Protocol v2, with its binary tensor extension."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lpnsr.runtime.command.recipe import Recipe
from lpnsr.runtime.serve import options
from lpnsr.runtime.serve.refusals import Refusal

HEADER = "Inference-Header-Content-Length"
"""Says how many bytes of a body are JSON; tensors follow them."""

VERSION = "1"

_JSON = 2**22
"""Most bytes of a request's JSON; larger pictures are sent as binary tensors."""

_OF_FILES = {"format", "quality", "alpha"}
"""Options that mean nothing to arrays."""


@dataclass(frozen=True)
class Inference:
    """What a request asks for.

    Attributes:
        id: that the answer repeats; None for none.
        pixels: uint8 (H, W, 3), RGB.
        recipe: how they are upscaled.
        binary: whether the answer is a binary tensor.
    """

    id: str | None
    pixels: np.ndarray
    recipe: Recipe
    binary: bool


def describe(name: str) -> dict[str, Any]:
    """The metadata of the model of this name."""
    return {
        "name": name,
        "versions": [VERSION],
        "platform": "lpnsr",
        "inputs": [
            {"name": "IMAGE", "datatype": "UINT8", "shape": [-1, -1, 3]},
            {"name": "SEED", "datatype": "UINT64", "shape": [1]},
        ],
        "outputs": [{"name": "UPSCALED", "datatype": "UINT8", "shape": [-1, -1, 3]}],
    }


def parse(source: Path, length: str | None) -> Inference:
    """Read a request.

    Args:
        source: file with its body.
        length: the value of its `HEADER`.

    Raises:
        Refusal: it is not what the protocol and the model's metadata say.
    """
    content = memoryview(source.read_bytes())
    text, tensors = _split(content, length)
    try:
        request = json.loads(bytes(text))
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the request does not begin with as much JSON as it states") from error
    _expect(isinstance(request, dict), "the request is not a JSON object")
    inputs = _inputs(request, tensors)
    _expect("IMAGE" in inputs, "there is no input IMAGE")
    parameters = _parameters(request)
    binary = parameters.pop("binary_data_output", False) is True
    for output in _objects(request, "outputs"):
        _expect(output.get("name") == "UPSCALED", "there is no output but UPSCALED")
        binary = _parameters(output).get("binary_data", binary) is True
    if "SEED" in inputs:
        parameters["seed"] = int(inputs["SEED"][0])
    name = request.get("id")
    _expect(name is None or isinstance(name, str), "the id is not text")
    return Inference(name, inputs["IMAGE"], recipe(parameters), binary)


def recipe(parameters: Mapping[str, Any]) -> Recipe:
    """What is to be done with an array, by the parameters of its request.

    Raises:
        Refusal: there is no such parameter for arrays, or a value is out of its range.
    """
    unknown = _OF_FILES & parameters.keys()
    _expect(not unknown, f"arrays have no {', '.join(sorted(unknown))}")
    return options.read(parameters.items()).recipe


def answer(model: str, inference: Inference, pixels: np.ndarray) -> tuple[bytes, dict[str, str]]:
    """Body and headers of the answer with these pixels, uint8 (H, W, 3)."""
    output: dict[str, Any] = {"name": "UPSCALED", "datatype": "UINT8", "shape": list(pixels.shape)}
    if inference.binary:
        output["parameters"] = {"binary_data_size": pixels.nbytes}
    else:
        output["data"] = pixels.ravel().tolist()
    reply = {"model_name": model, "model_version": VERSION, "outputs": [output]}
    if inference.id is not None:
        reply["id"] = inference.id
    text = json.dumps(reply).encode()
    if not inference.binary:
        return text, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", HEADER: str(len(text))}
    return text + pixels.tobytes(), headers


def _expect(true: bool, message: str) -> None:
    if not true:
        raise _unexpected(message)


def _unexpected(message: str) -> Refusal:
    return Refusal(400, f"{message}; see the model's metadata")


def _split(content: memoryview, length: str | None) -> tuple[memoryview, memoryview]:
    """The JSON of a body and its tensors."""
    end = len(content)
    if length is not None:
        _expect(length.isdecimal() and int(length) <= end, f"{HEADER} is not a length in the body")
        end = int(length)
    if end > _JSON:
        raise Refusal(413, f"the JSON has over {_JSON} bytes; send the picture as a binary tensor")
    return content[:end], content[end:]


def _inputs(request: dict[str, Any], tensors: memoryview) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for given in _objects(request, "inputs"):
        name, shape = given.get("name"), given.get("shape")
        if name not in ("IMAGE", "SEED"):
            raise _unexpected("there are no inputs but IMAGE and SEED")
        if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
            raise _unexpected(f"{name} has no shape of whole numbers")
        _expect(name not in found, f"the input {name} is given twice")
        kind = "UINT8" if name == "IMAGE" else "UINT64"
        _expect(given.get("datatype") == kind, f"{name} is not of datatype {kind}")
        if name == "SEED":
            _expect(shape == [1], f"SEED has the shape {shape}, not [1]")
        else:
            is_rgb = len(shape) == 3 and shape[2] == 3
            _expect(is_rgb, f"IMAGE has the shape {shape}, not [H, W, 3]")
        dtype = np.dtype(kind.lower()).newbyteorder("<")
        size = _parameters(given).get("binary_data_size")
        if size is None:
            values = _numbers(name, given.get("data"), dtype)
        else:
            _expect(
                type(size) is int and 0 <= size <= len(tensors) and size % dtype.itemsize == 0,
                f"binary_data_size of {name} is not a length in the body",
            )
            values, tensors = np.frombuffer(tensors[:size], dtype), tensors[size:]
        _expect(
            values.size == math.prod(shape),
            f"{name} has {values.size} values, not those of {shape}",
        )
        found[name] = values.reshape(shape)
    _expect(not len(tensors), f"{len(tensors)} bytes are left over after the tensors")
    return found


def _numbers(name: str, data: object, dtype: np.dtype) -> np.ndarray:
    """The values of a tensor in JSON, flat or nested."""
    try:
        values = np.array(data, dtype=object).ravel()
        _expect(all(type(value) is int for value in values), f"{name} has no whole numbers")
        return values.astype(dtype)
    except (ValueError, OverflowError) as error:
        raise Refusal(400, f"{name} has values that {dtype.name} cannot hold") from error


def _objects(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    values = holder.get(key, [])
    is_right = isinstance(values, list) and all(isinstance(value, dict) for value in values)
    _expect(is_right, f"{key} is not a list of objects")
    return values


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    values = holder.get("parameters", {})
    _expect(isinstance(values, dict), "parameters is not an object")
    return dict(values)
