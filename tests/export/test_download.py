"""`lpnsr-export --download`: weights by name, and a bundle that is found by name."""

from types import SimpleNamespace

import pytest
import torch
from hub import REPOSITORY, serve

from lpnsr.export import cli
from lpnsr.models import presets, sources
from lpnsr.models.sources import MIT, S_LAB, HubFile, Source
from lpnsr.runtime.bundle import Bundle

BASE = ("--preset", "micro", "--tile", "16", "--download")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("http_proxy", "HTTP_PROXY", "LPNSR_MIRROR", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LPNSR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "home"


@pytest.fixture
def hub(quick, copied, home, monkeypatch):
    """Has the micro model's checkpoints; two of them are on the hub, two in a release."""
    with serve() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        hub.files |= {file.name: file.read_bytes() for file in quick.weights.iterdir()}
        for number, name in enumerate(sorted(hub.files)):
            address = HubFile(REPOSITORY, name) if number % 2 else hub.release(name)
            licence = S_LAB if name.startswith(("auto", "denoiser")) else MIT
            known = Source((address,), licence, "https://example.org/micro")
            monkeypatch.setitem(sources.SOURCES, name, known)
        yield hub


@pytest.fixture
def run(capfd):
    def run(*arguments):
        code = cli.main([*BASE, *map(str, arguments)])
        out, err = capfd.readouterr()
        return code, out.splitlines(), err.splitlines()

    return run


def test_a_preset_by_name(hub, home, run, quick, copied):
    code, out, err = run("--accept-licences")
    assert code == 0
    assert err == [
        "pre_upsampler.safetensors, noise_predictor.safetensors: any use, with the authors' "
        "notice; it was trained with networks that are non-commercial "
        "(MIT, https://github.com/Faze-Hsw/LPNSR/blob/HEAD/LICENSE)",
        "autoencoder.safetensors, denoiser.safetensors: non-commercial use only; for anything "
        "else ask the authors of ResShift "
        "(S-Lab License 1.0, https://github.com/zsyOAOA/ResShift/blob/master/LICENSE)",
    ]
    assert out[0].startswith(f"{home / 'bundles' / 'micro'}: ")
    assert Bundle.open("micro").path == home / "bundles" / "micro"
    (chain,) = copied
    pairs = zip(chain.parameters(), quick.chain.parameters(), strict=True)
    assert all(torch.equal(found, expected) for found, expected in pairs)
    del hub.asked[:]
    code, _, err = run("-o", "again")
    assert (code, err, hub.asked) == (0, [], [])
    assert (home.parent / "again").is_dir()


def test_terms_must_be_accepted(hub, home, run):
    code, out, err = run()
    assert (code, out) == (2, [])
    assert err[-1].startswith("lpnsr-export: nothing is downloaded; to accept these terms add")
    assert any("non-commercial use only" in line for line in err)
    assert hub.asked == [] and not home.exists()


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 2), ("", 2), (EOFError(), 2)])
def test_somebody_at_a_terminal_is_asked(hub, home, run, monkeypatch, answer, code):
    def asked(question):
        assert question == "Accept these terms? [y/N] "
        if isinstance(answer, EOFError):
            raise answer
        return answer

    monkeypatch.setattr("builtins.input", asked)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    assert run()[0] == code
    assert bool(hub.asked) == (code == 0) == (home / "bundles" / "micro").exists()


def test_nothing_is_fetched_without_being_asked_for(hub, home, capfd):
    assert cli.main(["--preset", "micro", "--tile", "16", "-o", "bundle"]) == 2
    assert "micro needs weights: fetch them with --download" in capfd.readouterr().err
    assert hub.asked == [] and not home.exists()


def test_a_folder_goes_before_downloads(hub, home, run, quick):
    assert run("--weights", quick.weights)[0] == 0
    some = home.parent / "some"
    some.mkdir()
    for name in ("autoencoder.safetensors", "denoiser.safetensors"):
        (some / name).write_bytes(hub.files[name])
    assert hub.asked == []
    code, _, err = run("--weights", some, "-o", "other")  # what is left needs no consent
    assert (code, len(err)) == (0, 1)
    names = sorted(path.rpartition("/")[2] for path, _ in hub.asked)
    assert names == ["noise_predictor.safetensors", "pre_upsampler.safetensors"]


def test_verification_takes_downloads_too(hub, run):
    assert run("--accept-licences")[0] == 0
    assert run("--verify", "micro")[0] == 0


@pytest.mark.parametrize("way", ["option", "variable"])
def test_offline(hub, home, run, monkeypatch, way):
    if way == "variable":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run("--accept-licences", *["--offline"] * (way == "option"))
    assert (code, out, len(err)) == (2, [], 1)
    assert "pre_upsampler.safetensors" in err[0] and str(home / "weights") in err[0]
    assert ("--offline" if way == "option" else "HF_HUB_OFFLINE") in err[0]
    assert hub.asked == []


def test_a_failure_leaves_no_bundle(hub, home, run):
    del hub.files["noise_predictor.safetensors"]
    code, out, err = run("--accept-licences")
    assert (code, out) == (2, [])
    assert err[-1].startswith("lpnsr-export: noise_predictor.safetensors cannot be downloaded: ")
    assert "404" in err[-1] and "https://example.org/micro" in err[-1]
    assert not (home / "bundles").exists()


def test_a_page_where_there_is_no_address(home, run):
    code, out, err = run("--preset", "upsr", "--tile", "64")
    assert (code, out, len(err)) == (2, [], 1)
    for part in ("atd_real.pth and upsr.pth", "https://drive.google.com/", str(home / "weights")):
        assert part in err[0]


def test_what_nobody_has_published(run, home):
    code, _, err = run("--preset", "upsr-light", "--tile", "64")
    assert (code, len(err)) == (2, 1)
    assert "upsr_light.pth" in err[0] and "--weights DIR" in err[0]


def test_what_is_published_in_part(run, home):
    """SD-Turbo is, what DM-SR trains is not: nothing is asked of the hub before that is there."""
    code, _, err = run("--preset", "dmsr", "--tile", "64")
    assert (code, len(err)) == (2, 1)
    assert "timestep_estimator.safetensors, from lpnsr-train timestep-estimator" in err[0]
    assert "dmsr_encoder.safetensors, from lpnsr-train encoder" in err[0]
    (home / "own").mkdir(parents=True)
    for name in ("timestep_estimator", "dmsr_encoder"):
        (home / "own" / f"{name}.safetensors").touch()
    code, _, err = run("--preset", "dmsr", "--tile", "64", "--weights", home / "own")
    assert (code, len(err)) == (2, 2)
    assert "vae/diffusion_pytorch_model.fp16.safetensors" in err[0]
    assert "Stability AI Community License" in err[0]
    assert "--accept-licences" in err[1]


def test_a_bundle_needs_a_place_or_a_name(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--preset", "micro"])
    assert stop.value.code == 2
    assert "--download is required" in capsys.readouterr().err


def test_every_published_preset_has_sources():
    for preset in presets.PRESETS.values():
        if preset.weights is None and preset.name != "upsr-light":
            for network in preset.networks.values():
                known = sources.SOURCES.keys() & set(network.files)
                trained_here = network.source.startswith("lpnsr-train")
                assert known or trained_here, (preset.name, network.files)


@pytest.mark.parametrize("name", sources.SOURCES)
def test_sources_are_well_formed(name):
    source = sources.SOURCES[name]
    assert source.page.startswith("https://") and source.licence.address.startswith("https://")
    assert all(a.startswith("https://") for a in source.addresses if isinstance(a, str))
    assert source.sha256 is None or (len(source.sha256) == 64 and int(source.sha256, 16))
