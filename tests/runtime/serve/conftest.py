"""One server with the toy model for all tests that leave it as it is."""

import pytest

from lpnsr.runtime.upscaler import Upscaler


@pytest.fixture(scope="session")
def model(bundle):
    return Upscaler.from_bundle(bundle, backend="onnxruntime")


@pytest.fixture(scope="session")
def client(model):
    from .served import served

    with served(model) as client:
        yield client
