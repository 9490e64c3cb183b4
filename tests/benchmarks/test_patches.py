"""What `lpnsr-bench patches` finds in upscalers whose faults are known."""

import numpy as np
import pytest

from lpnsr.benchmarks import cli, patches, samples

PHOTO = "tests/photos/lighthouse_small.png"


def bicubic(picture):
    return samples.bicubic(picture, 4)


def tinted(picture):
    """Three levels too red, and noisy in the outermost pixels."""
    upscaled = bicubic(picture).astype(int)
    upscaled[..., 0] += 3
    upscaled[:4] += np.arange(upscaled.shape[1])[:, None] % 2 * 20
    return upscaled.clip(0, 255).astype(np.uint8)


@pytest.fixture
def found(request):
    photo = request.config.rootpath / PHOTO
    return lambda upscale: {name: measure(upscale) for name, measure in patches.measures([photo])}


def test_bicubic_interpolation_changes_nothing_but_edges(found):
    assert found(bicubic) == {
        "flat primaries": "0",
        "grey ramps": "0",
        "lettering, away from edges": "0",
        "lettering, beyond ink and paper": found(bicubic)["lettering, beyond ink and paper"],
        "grey photographs, colour": "0",
        "frame and rest, dB over bicubic": "+0.00, +0.00",
        "frame of a middle, alone and surrounded, dB over bicubic": "+0.00, +0.00",
    }
    assert 0 < int(found(bicubic)["lettering, beyond ink and paper"]) < 30


def test_faults_are_found(found):
    values = found(tinted)
    assert int(values["flat primaries"]) == 23  # in the noisy rows of black
    assert int(values["grey photographs, colour"]) == 3
    frame, rest = map(float, values["frame and rest, dB over bicubic"].split(", "))
    assert frame < rest < 0
    middle = values["frame of a middle, alone and surrounded, dB over bicubic"].split(", ")
    alone, surrounded = map(float, middle)
    assert alone < surrounded < 0  # the noisy rows are those of the whole


def test_the_command_prints_both_ways(capsys, request, monkeypatch):
    monkeypatch.setattr(patches, "SIDE", 48)
    assert cli.main(["patches", str(request.config.rootpath / PHOTO)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| worst, levels | with colour fix | without |"
    assert len(lines) == 9
