"""`lpnsr-run --list`, and models by name."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from lpnsr.runtime.bundle import BUILTIN, Bundle
from lpnsr.runtime.command import cli, listing
from lpnsr.runtime.manifest import MANIFEST

from .toy import photo


@pytest.fixture
def home(tmp_path, monkeypatch, bundle):
    """The cache, which has the toy model under the name `lpnsr`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LPNSR_HOME", str(tmp_path / "home"))
    shutil.copytree(bundle, tmp_path / "home" / "bundles" / "lpnsr")
    return tmp_path / "home"


@pytest.fixture
def shown(home, capsys):
    """Section -> name -> text of what the command shows."""

    def shown():
        with pytest.raises(SystemExit) as stop:
            cli.main(["--list"])
        assert stop.value.code == 0
        sections, lines = {}, {}
        for line in capsys.readouterr().out.splitlines():
            if line.startswith("  "):
                name, _, text = line.strip().partition(" ")
                lines[name] = text.strip()
            else:
                lines = sections.setdefault(line, {})
        return sections

    return shown


def test_models(shown, home):
    (home / "bundles" / "mine").mkdir()
    (home / "bundles" / "mine" / MANIFEST).write_text("{")
    models = shown()["models"]
    assert list(models) == [
        "lpnsr-tiny",
        "lpnsr",
        "mine",
        "resshift",
        "resshift-15",
        "sinsr",
        "upsr",
        "real-esrgan",
    ]
    assert models["lpnsr-tiny"] == "built in, 4 steps, tiles 64x64 128x128 192x192"
    assert models["lpnsr"].startswith(f"{home / 'bundles' / 'lpnsr'}, ")
    assert "cannot be used: manifest.json is damaged" in models["mine"]
    assert models["sinsr"] == "missing; run: lpnsr-export --preset sinsr --download"


def test_backends_and_devices(shown, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = shown()
    assert found["backends"]["onnxruntime"].startswith("ONNX Runtime ")
    assert 'pip install "lpnsr[openvino]"' in found["backends"]["openvino"]
    assert set(found["backends"]) == {
        "onnxruntime",
        "onnxruntime-winograd",
        "openvino",
        "onnxruntime-cuda",
        "tensorrt",
        "tensorrt-rtx",
    }
    assert found["devices"]["cpu"].startswith(listing.processor())
    assert "cuda" in found["devices"]


def test_a_model_by_its_name(home, capfd):
    Image.fromarray(photo(20, 30)).save("a.png")
    arguments = ["a.png", "-o", "out", "--backend", "onnxruntime", "--model"]
    assert cli.main([*arguments, "lpnsr"]) == 0
    with Image.open("out/a.png") as image:
        assert np.asarray(image).shape == (80, 120, 3)
    assert cli.main([*arguments, "resshift", "--overwrite"]) == 2
    assert "resshift is not a bundle" in capfd.readouterr().err


def test_a_folder_goes_before_the_cache(home, tmp_path):
    assert Bundle.open("lpnsr").path == home / "bundles" / "lpnsr"
    (tmp_path / "lpnsr").mkdir()  # such as a clone of the project
    assert Bundle.open("lpnsr").path == home / "bundles" / "lpnsr"
    shutil.copytree(home / "bundles" / "lpnsr", tmp_path / "lpnsr", dirs_exist_ok=True)
    assert Bundle.open("lpnsr").path.resolve() == tmp_path / "lpnsr"


def test_the_built_in_model_has_its_name(home):
    assert Bundle.open("lpnsr-tiny").path == BUILTIN


def test_names_are_those_of_presets():
    presets = pytest.importorskip("lpnsr.models.presets").PRESETS
    own = {name for name, preset in presets.items() if preset.weights}
    assert {*presets} - own - {"upsr-light", "dmsr"} == set(listing.PUBLISHED)
