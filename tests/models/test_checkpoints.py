import pickle
import re

import pytest
import torch
from safetensors.torch import save_file

from lpnsr.models.checkpoints import CheckpointError, load_network, read_weights


def network():
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Conv2d(2, 1, 3)
    )


@pytest.fixture
def weights():
    torch.manual_seed(2)
    return {key: torch.randn_like(value) for key, value in network().state_dict().items()}


def assert_loads(file, weights):
    target = network()
    load_network(target, file, "denoiser")
    for key, value in target.state_dict().items():
        assert value.dtype == torch.float32
        assert value.equal(weights[key]), key


def refusal(file):
    """The one-line error that loading `file` gives; nothing of it may reach the network."""
    target, untouched = network(), network().state_dict()
    with pytest.raises(CheckpointError) as error:
        load_network(target, file, "denoiser")
    for key, value in target.state_dict().items():
        assert value.equal(untouched[key]), key
    message = str(error.value)
    assert str(file) in message and "\n" not in message
    return message


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "params", "params_ema"])
def test_official_forms(tmp_path, weights, wrapper, prefix):
    content = {prefix + key: value for key, value in weights.items()}
    file = tmp_path / "weights.pth"
    torch.save({wrapper: content, "epoch": 7} if wrapper else content, file)
    assert_loads(file, weights)


def test_averaged_weights_go_first(tmp_path, weights):
    worse = {key: value + 1 for key, value in weights.items()}
    file = tmp_path / "weights.pth"
    torch.save({"params": worse, "params_ema": weights}, file)
    assert_loads(file, weights)


@pytest.mark.parametrize("prefix", ["", "module._orig_mod."])
def test_safetensors(tmp_path, weights, prefix):
    file = tmp_path / "weights.safetensors"
    save_file({prefix + key: value for key, value in weights.items()}, file)
    assert_loads(file, weights)


@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".pth"])
def test_legacy_format(tmp_path, weights, suffix):
    file = tmp_path / f"weights{suffix}"
    torch.save(weights, file, _use_new_zipfile_serialization=False)
    assert_loads(file, weights)


def test_half_precision_is_widened(tmp_path, weights):
    half = {key: value.half() for key, value in weights.items()}
    file = tmp_path / "weights.safetensors"
    save_file(half, file)
    assert_loads(file, {key: value.float() for key, value in half.items()})


def test_buffers_of_official_files_are_ignored(tmp_path, weights):
    file = tmp_path / "weights.pth"
    buffers = {
        "0.attn.relative_position_index": torch.zeros(64, 64, dtype=torch.int64),
        "0.attn_mask": torch.zeros(4, 64, 64),
    }
    torch.save({**weights, **buffers}, file)
    assert_loads(file, weights)


def test_misfits_are_named(tmp_path, weights):
    """Missing, unexpected and misshapen keys: three of each, and how many more there are."""
    file = tmp_path / "other.pth"
    for key in ("0.weight", "0.bias", "1.weight", "1.bias"):
        weights[f"body.{key}"] = weights.pop(key)
    weights["2.weight"] = torch.zeros(1, 2, 5, 5)
    torch.save(weights, file)
    assert refusal(file) == (
        f"{file} is not a checkpoint of the denoiser: "
        "missing: 0.weight, 0.bias, 1.weight and 1 more; "
        "unexpected: body.0.weight, body.0.bias, body.1.weight and 1 more; "
        "of the wrong shape: 2.weight (1, 2, 5, 5) instead of (1, 2, 3, 3)"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda w: w.pop("1.bias"), "missing: 1.bias"),
        (lambda w: w.update(extra=torch.zeros(1)), "unexpected: extra"),
        (
            lambda w: w.update({"0.bias": torch.zeros(5)}),
            "of the wrong shape: 0.bias (5,) instead of (4,)",
        ),
    ],
)
def test_a_single_misfit_is_enough(tmp_path, weights, change, problem):
    change(weights)
    file = tmp_path / "weights.safetensors"
    save_file(weights, file)
    assert refusal(file) == f"{file} is not a checkpoint of the denoiser: {problem}"


class Malice:
    """An object whose unpickling writes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


@pytest.mark.parametrize("wrap", [lambda o: o, lambda o: {"state_dict": {"0.weight": o}}])
@pytest.mark.parametrize("save", [torch.save, lambda o, file: file.write_bytes(pickle.dumps(o))])
def test_code_is_never_run(tmp_path, save, wrap):
    file, victim = tmp_path / "weights.pth", tmp_path / "victim"
    save(wrap(Malice(victim)), file)
    assert "cannot be read as a checkpoint of plain tensors" in refusal(file)
    assert not victim.exists()


def test_a_pickled_module_is_refused(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(network(), file)
    assert "cannot be read as a checkpoint of plain tensors" in refusal(file)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_truncated_file(tmp_path, weights, form, share):
    file = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(weights, file)
    else:
        torch.save(weights, file, _use_new_zipfile_serialization=form == "zip")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert "download it again" in refusal(file)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"hello, this is a text file\n",
        b"<!DOCTYPE html><title>404 Not Found</title>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n",
        b"PK\x03\x04 but no archive",
        b"\x80\x02 but no pickle",
        bytes(range(256)),
        b"\0" * 64,
        b".",
        b"Vname\n.",
        "ü€".encode(),
    ],
)
def test_a_file_of_another_kind(tmp_path, content, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    refusal(file)


@pytest.mark.parametrize(
    "content", [{}, [torch.zeros(1)], torch.zeros(3), 7, {"state_dict": {}}, {"epoch": 3}]
)
def test_a_file_without_named_tensors(tmp_path, content):
    file = tmp_path / "weights.pth"
    torch.save(content, file)
    refusal(file)


def test_names_that_are_no_text(tmp_path, weights):
    file = tmp_path / "weights.pth"
    torch.save({**weights, 5: torch.zeros(2)}, file)
    refusal(file)


@pytest.mark.parametrize("name", ["none.pth", "none.safetensors", "folder"])
def test_a_missing_file(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match=re.escape(f"no checkpoint {tmp_path / name}")):
        read_weights(tmp_path / name)
