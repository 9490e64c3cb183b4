"""DM-SR: its checkpoints, its variants, its prompt."""

from pathlib import Path

import numpy as np
import pytest
import torch
from dm_sr import AUTOENCODER, PRESET, TEXT
from PIL import Image
from safetensors.torch import save_file
from small import MICRO, random_model
from torch import nn

from lpnsr.benchmarks import deterministic
from lpnsr.models.autoencoder_kl import OLD_NAMES
from lpnsr.models.checkpoints import CheckpointError, load_network
from lpnsr.models.dm_sr import Decomposition, signal_shares
from lpnsr.models.presets import PresetError, get_preset
from lpnsr.models.text_tower import TextTower
from lpnsr.models.variants import describe, vary
from lpnsr.models.weights import find_weights, load_chain
from lpnsr.runtime.tiles import tiling

PHOTO = Path(__file__).parents[1] / "photos" / "lighthouse_small.png"
LR = torch.linspace(-1, 1, 3 * 16 * 16).reshape(1, 3, 16, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return random_model(PRESET, tmp_path_factory.mktemp("dm_sr"))


def run(chain):
    with torch.no_grad():
        return chain.run(LR, torch.empty(0))


def test_checkpoints_as_they_are_published(model, tmp_path):
    """In folders, the autoencoder whole, in float16, its attention by the old names or the new."""
    expected = run(model.chain)["sr"]
    whole = model.chain.encoder.state_dict() | model.chain.decoder.state_dict()
    old = {new: old for old, new in OLD_NAMES.items()}
    for names in ({}, old):
        files = find_weights(PRESET, model.weights)
        renamed = {}
        for key, value in whole.items():
            for new, name in names.items():
                key = key.replace(
                    f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{name}."
                )
            renamed[key] = value
        assert bool(names) == any(".proj_attn." in key for key in renamed)
        files["decoder"] = tmp_path / "whole.safetensors"
        save_file(renamed, files["decoder"])
        torch.testing.assert_close(run(load_chain(PRESET, files))["sr"], expected)
    files["denoiser"] = tmp_path / "half.safetensors"
    half = {name: value.half() for name, value in model.chain.denoiser.state_dict().items()}
    save_file(half, files["denoiser"])
    torch.testing.assert_close(run(load_chain(PRESET, files))["sr"], expected, atol=0.05, rtol=0.05)


def test_float16_files_are_found(model, tmp_path):
    name = "unet/diffusion_pytorch_model.fp16.safetensors"
    (tmp_path / "unet").mkdir()
    (tmp_path / name).touch()
    assert find_weights(PRESET, tmp_path, roles=["denoiser"]) == {"denoiser": tmp_path / name}


def test_what_is_wrong_with_a_checkpoint_is_one_line(model, tmp_path):
    files = find_weights(PRESET, model.weights)
    other = tmp_path / "other.safetensors"
    # The UNet of Stable Diffusion 1: another context, convolutions in place of linear layers.
    weights = model.chain.denoiser.state_dict()
    weights = {
        name: value[..., None, None] if name.endswith("proj_in.weight") else value
        for name, value in weights.items()
    }
    save_file(weights, other)
    with pytest.raises(CheckpointError) as caught:
        load_chain(PRESET, files | {"denoiser": other})
    assert "not a checkpoint of the denoiser: of the wrong shape" in str(caught.value)
    assert str(caught.value).endswith("take that of stabilityai/sd-turbo")
    assert "\n" not in str(caught.value)
    published = {k: v for k, v in model.chain.encoder.state_dict().items() if "time_" not in k}
    save_file(published, other)
    with pytest.raises(CheckpointError, match=r"missing: time_projections.*lpnsr-train encoder"):
        load_chain(PRESET, files | {"encoder": other})
    with pytest.raises(CheckpointError, match=r"missing: post_quant_conv.*stabilityai/sd-turbo"):
        load_chain(PRESET, files | {"decoder": other})


def test_an_estimator_that_is_missing(model, tmp_path):
    with pytest.raises(CheckpointError, match=r"put timestep_estimator\.safetensors, .* there, or"):
        find_weights(PRESET, tmp_path)
    fixed = vary(PRESET, timestep=250)
    assert "timestep_estimator" not in find_weights(fixed, model.weights)


@pytest.mark.parametrize(
    ("preset", "timestep", "message"),
    [
        ("lpnsr", 250, "lpnsr estimates no timestep; leave out --timestep"),
        ("dmsr", 1000, "dmsr has no timestep 1000; take one from 0 to 999"),
    ],
)
def test_timesteps_that_there_are_not(preset, timestep, message):
    with pytest.raises(PresetError, match=message):
        vary(get_preset(preset), timestep=timestep)


@pytest.mark.parametrize("asked", [{}, {"steps": 5}, {"steps": 2, "timestep": 250}])
def test_a_variant_is_known_by_its_description(asked):
    preset = vary(PRESET, **asked)
    described = describe(preset)
    assert described.get("timestep") == asked.get("timestep")
    assert vary(PRESET, **described) == preset


def test_a_fixed_timestep_is_what_networks_are_told(model):
    preset = vary(PRESET, timestep=7)
    chain = load_chain(preset, find_weights(preset, model.weights))
    found = run(chain)
    assert found["timestep"].tolist() == [7.0]
    assert not torch.allclose(found["sr"], run(model.chain)["sr"], atol=1e-3)


def test_later_steps_go_on_from_the_first_noise():
    """A denoiser that finds the noise there is leaves the clean latent as it is."""
    clean, noise = torch.randn(2, 1, 4, 8, 8)
    shares = signal_shares()
    told = []

    class Oracle:
        def modulation(self, timestep):
            told.append(int(timestep))
            return timestep

        def __call__(self, noisy, timestep):
            share = shares[timestep.long()]
            torch.testing.assert_close(noisy, share.sqrt() * clean + (1 - share).sqrt() * noise)
            return noise

    decomposition, estimate = Decomposition(5), torch.tensor([400.0])
    state = decomposition.start(decomposition.noisy(clean, noise, estimate))
    for number in range(5, 0, -1):
        known = decomposition.modulation(torch.tensor([number]))
        state = decomposition(Oracle(), state, estimate, *known)
        torch.testing.assert_close(state, torch.cat([clean, noise], dim=1), atol=1e-4, rtol=1e-4)
    assert told == [400, 320, 240, 160, 80]


def test_shares_of_the_signal():
    """Figures of Stable Diffusion's schedule."""
    shares = signal_shares()
    for timestep, signal, noise in (
        (0, 0.9996, 0.0292),
        (250, 0.8208, 0.5711),
        (499, 0.5269, 0.8499),
    ):
        assert float(shares[timestep].sqrt()) == pytest.approx(signal, abs=1e-4)
        assert float((1 - shares[timestep]).sqrt()) == pytest.approx(noise, abs=1e-4)


def test_the_text_tower_is_a_causal_transformer(assert_near):
    torch.manual_seed(0)
    tower = TextTower(TEXT).eval()
    model = tower.text_model
    ids = torch.tensor([*TEXT.prompt, *[0] * (TEXT.length - len(TEXT.prompt))])
    embeddings = model["embeddings"]
    tokens = embeddings["token_embedding"](ids) + embeddings["position_embedding"].weight
    mask = nn.Transformer.generate_square_subsequent_mask(TEXT.length)
    tokens = tokens[None]
    for ours in model["encoder"]["layers"]:
        theirs = nn.TransformerEncoderLayer(
            TEXT.channels,
            TEXT.heads,
            4 * TEXT.channels,
            0.0,
            "gelu",
            batch_first=True,
            norm_first=True,
        ).eval()
        attention = ours.self_attn
        parts = attention.q_proj, attention.k_proj, attention.v_proj
        weights = {
            "self_attn.in_proj_weight": torch.cat([part.weight for part in parts]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in parts]),
            **attention.out_proj.state_dict(prefix="self_attn.out_proj."),
            **ours.mlp["fc1"].state_dict(prefix="linear1."),
            **ours.mlp["fc2"].state_dict(prefix="linear2."),
            **ours.layer_norm1.state_dict(prefix="norm1."),
            **ours.layer_norm2.state_dict(prefix="norm2."),
        }
        theirs.load_state_dict(weights)
        tokens = theirs(tokens, src_mask=mask)
    with torch.no_grad():
        assert_near(tower(), model["final_layer_norm"](tokens).detach(), 1e-5)


def test_the_prompt_fills_the_context():
    tower = get_preset("dmsr").networks["text_encoder"].build.args[0]
    assert len(tower.prompt) == 29 and tower.length == 77
    assert tower.prompt[0] == 49406 and tower.prompt[-1] == tower.vocabulary - 1


def test_the_context_is_needed_and_kept(model):
    """It is what the text tower made of the prompt when the chain was prepared, until it is again.

    No call changes a chain.
    """
    unprepared = PRESET.build()
    with pytest.raises(LookupError, match="told no context"):
        run(unprepared)
    chain = load_chain(PRESET, find_weights(PRESET, model.weights))
    unet, before = chain.denoiser, run(chain)["sr"]
    with torch.no_grad():
        chain.text_encoder.text_model["final_layer_norm"].bias += 1
    assert torch.equal(run(chain)["sr"], before)
    chain.prepare()
    assert not torch.equal(run(chain)["sr"], before)
    assert not any(name.endswith((".key", ".value")) for name in unet.state_dict())
    assert AUTOENCODER.scaling == 0.18215


def test_a_checkpoint_of_the_text_tower_with_its_positions(tmp_path):
    tower = TextTower(TEXT)
    positions = {"text_model.embeddings.position_ids": torch.arange(TEXT.length)[None]}
    save_file(tower.state_dict() | positions, tmp_path / "model.safetensors")
    fresh = TextTower(TEXT)
    load_network(fresh, tmp_path / "model.safetensors", "text_encoder")
    torch.testing.assert_close(fresh(), tower())


def tiled(preset, chain, picture, tile, **given):
    """Upscaled in tiles, without noise; (4H, 4W, 3) in levels."""
    large = np.zeros((4 * picture.shape[0], 4 * picture.shape[1], 3), np.float32)
    noise = torch.zeros(preset.shape("noise", 1, (tile, tile)) if preset.draws else 0)
    for part in tiling.plan(picture.shape[:2], (tile, tile), (16, 16), 4):
        lr = part.cut(picture).transpose(2, 0, 1)[None] / np.float32(127.5) - 1
        with torch.no_grad():
            sr = chain(torch.from_numpy(lr), noise, **given)[0].permute(1, 2, 0)
        part.blend(127.5 * (sr.numpy() + 1), large[4 * part.rows.start :], 4)
    return large


@pytest.mark.parametrize("kind", ["flat", "textured"])
def test_two_tilings_differ_no_more_than_those_of_lpnsr(kind):
    """With random weights, where neither agrees: all of a tile counts everywhere in it."""
    with Image.open(PHOTO) as image:
        picture = np.asarray(image.convert("RGB"))[-64:, -64:]
    if kind == "flat":
        picture = np.full_like(picture, (120, 150, 90))
    differences = []
    for preset, given in ((PRESET, {"timestep": torch.tensor([200.0])}), (MICRO, {})):
        chain = preset.build()
        with torch.no_grad():
            deterministic.fill(chain)
        chain.prepare()
        one, other = (tiled(preset, chain, picture, tile, **given) for tile in (64, 32))
        differences.append(np.abs(one - other).mean())
    print(f"levels between two tilings: DM-SR {differences[0]:.1f}, LPNSR {differences[1]:.1f}")
    assert differences[0] <= differences[1]
