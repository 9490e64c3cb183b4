import pytest
from small import MICRO, random_model

from lpnsr.models import presets


@pytest.fixture
def micro(monkeypatch, tmp_path):
    """A small preset with checkpoints, known by its name, as random_model gives it."""
    model = random_model(MICRO, tmp_path)
    monkeypatch.setitem(presets.PRESETS, "micro", model.preset)
    return model
