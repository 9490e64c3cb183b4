import re

import pytest
import torch
from safetensors.torch import save_file

from lpnsr.models.checkpoints import CheckpointError
from lpnsr.models.presets import PresetError, get_preset
from lpnsr.models.weights import find_weights, load_chain

OFFICIAL = {
    "pre_upsampler": "003_realSR_BSRGAN_DFOWMFC_s64w8_SwinIR-L_x4_GAN.pth",
    "autoencoder": "autoencoder_vq_f4.pth",
    "denoiser": "resshift_realsrx4_s4_v3.pth",
    "noise_predictor": "noise_predictor_v2.pth",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with (empty) files under the official names."""
    for name in OFFICIAL.values():
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def lpnsr():
    return get_preset("lpnsr")


def test_official_names(lpnsr, folder):
    assert find_weights(lpnsr, folder) == {role: folder / name for role, name in OFFICIAL.items()}


def test_safetensors_under_official_names(lpnsr, folder):
    file = (folder / OFFICIAL["denoiser"]).rename(folder / "resshift_realsrx4_s4_v3.safetensors")
    assert find_weights(lpnsr, folder)["denoiser"] == file


@pytest.mark.parametrize("name", ["noise_predictor(v2).pth", "noise_predictor.pth"])
def test_other_names_of_the_noise_predictor(lpnsr, folder, name):
    other = folder / name
    other.touch()
    assert find_weights(lpnsr, folder)["noise_predictor"].name == OFFICIAL["noise_predictor"]
    (folder / OFFICIAL["noise_predictor"]).unlink()
    assert find_weights(lpnsr, folder)["noise_predictor"] == other


def test_single_files_go_before_the_folder(lpnsr, folder, tmp_path):
    mine = tmp_path / "mine.pth"
    found = find_weights(lpnsr, folder, {"denoiser": mine, "autoencoder": None})
    assert found["denoiser"] == mine
    assert found["autoencoder"] == folder / OFFICIAL["autoencoder"]


def test_single_files_alone(lpnsr, tmp_path):
    files = {role: tmp_path / f"{role}.pth" for role in OFFICIAL}
    assert find_weights(lpnsr, None, files) == files


@pytest.mark.parametrize("role", OFFICIAL)
def test_a_missing_file_is_named(lpnsr, folder, role):
    (folder / OFFICIAL[role]).unlink()
    with pytest.raises(CheckpointError) as error:
        find_weights(lpnsr, folder)
    message = str(error.value)
    option = f"--{role.replace('_', '-')} FILE"
    for part in (str(folder), f"the {role}", OFFICIAL[role], option):
        assert part in message, part


def test_no_weights_at_all(lpnsr):
    with pytest.raises(CheckpointError, match=r"--weights DIR, .*--pre-upsampler FILE"):
        find_weights(lpnsr)


def test_a_missing_folder(lpnsr, tmp_path):
    message = f"there is no folder {tmp_path / 'none'}; name that of {OFFICIAL['pre_upsampler']}, "
    with pytest.raises(CheckpointError, match=re.escape(message)):
        find_weights(lpnsr, tmp_path / "none")


def test_all_missing_files_are_named_at_once(lpnsr, folder):
    for role in ("autoencoder", "denoiser"):
        (folder / OFFICIAL[role]).unlink()
    with pytest.raises(CheckpointError) as error:
        find_weights(lpnsr, folder)
    assert str(error.value) == (
        f"{folder} has no checkpoint of the autoencoder and denoiser: put autoencoder_vq_f4.pth "
        "and resshift_realsrx4_s4_v3.pth there, or give --autoencoder FILE --denoiser FILE"
    )


def test_an_unknown_preset():
    with pytest.raises(PresetError, match=r"unknown preset 'lpnrs'; there are: .*lpnsr, .*"):
        get_preset("lpnrs")


@pytest.mark.parametrize("role", ["pre_upsampler", "denoiser", "noise_predictor"])
def test_a_wrong_file_names_its_network(tmp_path, role):
    preset = get_preset("lpnsr-tiny")
    files = saved(preset, preset.build(), tmp_path)
    save_file({"other": torch.zeros(1)}, files[role])
    with pytest.raises(CheckpointError) as error:
        load_chain(preset, files)
    assert str(error.value).startswith(
        f"{files[role]} is not a checkpoint of the {role}: missing: "
    )


def test_load_chain(tmp_path):
    preset = get_preset("lpnsr-tiny")
    torch.manual_seed(0)
    source = preset.build()
    loaded = load_chain(preset, saved(preset, source, tmp_path))
    lr, noise = torch.rand(1, 3, 16, 16), torch.randn(4, 1, 48, 16, 16)
    assert not loaded.training
    assert loaded(lr, noise).equal(source(lr, noise))


def saved(preset, chain, folder):
    for role in preset.networks:
        save_file(chain.network(role).state_dict(), folder / preset.networks[role].files[0])
    return find_weights(preset, folder)
