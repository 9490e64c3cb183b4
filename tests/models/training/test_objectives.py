import pytest
import torch
import torch.nn.functional as F
from small import UPSR

from lpnsr.models.color_fix import correct
from lpnsr.models.training.cli import main
from lpnsr.models.training.config import STAGES, StageConfig
from lpnsr.models.training.estimate import estimate
from lpnsr.models.training.objectives import make_objective, start_from_zero, start_with_detail

from .conftest import configured

LR = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
HR = torch.nn.functional.interpolate(LR, scale_factor=4.0)


def built(toy):
    torch.manual_seed(0)
    return toy.build()


def test_a_fresh_denoiser_with_a_skip_returns_its_state(toy):
    chain = built(toy)
    start_from_zero(chain.denoiser)
    state = torch.randn(1, 48, 16, 16)
    step = chain.schedule.reverse_steps()[0]
    x0 = chain.predict_x0(step, state, LR[:1])
    torch.testing.assert_close(x0, state * step.input_scale)


@pytest.mark.parametrize("steps", [(), (2,)])
def test_gradients_reach_the_noise_predictor_through_the_chain(toy, steps):
    gradients = []
    for checkpointed in (False, True):
        chain = built(toy)
        chain.noise_predictor.requires_grad_(True)
        config = StageConfig(steps=steps, checkpoint_activations=checkpointed)
        stage = make_objective("noise_predictor", chain, toy, config)
        torch.manual_seed(1)
        found, expected = stage.predict(LR, HR)
        assert expected is HR
        (found - expected).square().mean().backward()
        assert all(parameter.grad is None for parameter in chain.denoiser.parameters())
        gradients.append([p.grad for p in chain.noise_predictor.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)
    assert any(gradient.abs().max() > 0 for gradient in gradients[0])


def test_gradients_pass_the_denoiser_as_if_it_returned_its_state(toy):
    found = {}
    for name, straight in (("through", False), ("past", True)):
        chain = built(toy)
        chain.noise_predictor.requires_grad_(True)
        config = StageConfig(straight_through=straight, checkpoint_activations=False)
        torch.manual_seed(1)
        estimate, _ = make_objective("noise_predictor", chain, toy, config).predict(LR, HR)
        estimate.square().mean().backward()
        found[name] = estimate, chain.noise_predictor.out[-1].bias.grad
    torch.testing.assert_close(found["past"][0], found["through"][0])
    assert not torch.allclose(found["past"][1], found["through"][1])

    chain = built(toy)
    start_from_zero(chain.denoiser)  # returns its state: both gradients are one
    gradients = []
    for straight in (False, True):
        config = StageConfig(straight_through=straight, checkpoint_activations=False)
        chain.noise_predictor.requires_grad_(True).zero_grad()
        torch.manual_seed(1)
        estimate, _ = make_objective("noise_predictor", chain, toy, config).predict(LR, HR)
        estimate.square().mean().backward()
        gradients.append(chain.noise_predictor.out[-1].weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_a_fresh_noise_predictor_sees_detail_and_adds_little_by_chance(toy):
    chain = built(toy)
    start_from_zero(chain.noise_predictor)
    start_with_detail(chain.noise_predictor, toy.scale)
    step = chain.schedule.reverse_steps()[0]
    state, lr = torch.randn(1, 48, 16, 16), LR[:1]
    mean, logvar = chain.compute(chain.stage("noise_predictor"), step, state, state, lr)
    torch.testing.assert_close(mean, torch.zeros_like(mean))
    assert (logvar / 2).exp().max() < 0.06

    first = chain.noise_predictor.input_blocks[0][0]
    seen = first(torch.cat([state, state, lr], dim=1))
    width = min(first.out_channels, 48)
    blocks = state.unflatten(1, (3, 16))
    detail = (blocks - blocks.mean(2, keepdim=True)).flatten(1, 2)
    torch.testing.assert_close(seen[:, :width], 8 * detail[:, :width], rtol=1e-4, atol=1e-4)


def test_the_colours_of_the_input_in_training(toy):
    found = {}
    for fix in (False, True):
        chain = built(toy)
        config = StageConfig(color_fix=fix, checkpoint_activations=False, start="pre_upsampler")
        torch.manual_seed(1)
        found[fix], _ = make_objective("noise_predictor", chain, toy, config).predict(LR, HR)
    torch.testing.assert_close(found[True], correct(found[False], LR))
    assert (found[True] - found[False]).abs().max() > 1e-2


def test_the_pre_upsampler_is_judged_as_users_see_it(toy):
    chain = built(toy)
    config = StageConfig(color_fix=True)
    found, expected = make_objective("pre_upsampler", chain, toy, config).predict(LR, HR)
    torch.testing.assert_close(found, correct(chain.network("pre_upsampler")(LR), LR))
    assert expected is HR


def test_only_crops_that_bicubic_interpolation_has_better_do_harm(toy):
    chain = built(toy)
    stage = make_objective("pre_upsampler", chain, toy, StageConfig(no_harm=0.5))
    bicubic = F.interpolate(LR, HR.shape[2:], mode="bicubic")
    with torch.no_grad():
        own = stage.network(LR)
        _, _, harm = stage.predict(LR, own + 0.01)
        assert harm == 0
        _, _, harm = stage.predict(LR, bicubic + 0.01)
        error = (own - bicubic - 0.01).square().flatten(1).mean(1)
        assert harm.item() == pytest.approx(0.5 * (error / 1e-4).log().mean().item(), rel=1e-3)


def test_a_target_without_noise(toy):
    """It does not depend on the original, and is what the last step makes of the start."""
    chain = built(toy)
    config = StageConfig(target="noise_free", checkpoint_activations=False, start="pre_upsampler")
    stage = make_objective("noise_predictor", chain, toy, config)
    targets = [stage.predict(LR, hr)[1] for hr in (HR, -HR)]
    torch.testing.assert_close(*targets)
    y = chain.encode(LR)
    latent = chain.predict_x0(chain.schedule.reverse_steps()[-1], y, LR)
    torch.testing.assert_close(targets[0], chain.codec.decode(latent))


def test_training_starts_from_bicubic_unless_told_otherwise(toy):
    """The chain of a denoiser that returns its state ends where it started."""
    chain = built(toy)
    start_from_zero(chain.denoiser)
    for start in ("bicubic", "pre_upsampler"):
        stage = make_objective("denoiser", chain, toy, StageConfig(start=start))
        expected = chain.pre_upsampler(LR)
        if start == "bicubic":
            expected = torch.nn.functional.interpolate(LR, scale_factor=4.0, mode="bicubic")
        torch.testing.assert_close(stage.preview(LR), expected, atol=0.02, rtol=0)


@pytest.mark.parametrize(("states", "shown"), [("forward", True), ("chain", False)])
def test_what_the_denoiser_is_shown_of_the_original(toy, states, shown):
    chain = built(toy)
    stage = make_objective(
        "denoiser", chain, toy, StageConfig(start="pre_upsampler", states=states)
    )
    for seed in range(4):  # of the timestep
        found = []
        for hr in (HR, -HR):
            torch.manual_seed(seed)
            estimate, expected = stage.predict(LR, hr)
            torch.testing.assert_close(expected, chain.codec.encode(hr))
            found.append(estimate)
        assert (not torch.equal(*found)) == shown


@pytest.mark.parametrize("states", ["forward", "chain"])
def test_the_denoiser_of_upsr_sees_the_estimate(states):
    """And not the small picture, which is of another size than its latents."""
    chain = random_weights(UPSR)
    stage = make_objective("denoiser", chain, UPSR, StageConfig(states=states))
    stage.network.requires_grad_(True)
    found, expected = stage.predict(LR, HR)
    torch.testing.assert_close(expected, chain.codec.encode(HR))
    (found - expected).square().mean().backward()
    assert all(parameter.grad is not None for parameter in stage.network.parameters())
    assert all(parameter.grad is None for parameter in chain.auxiliary.parameters())
    assert stage.preview(LR).shape == HR.shape


def test_the_noise_of_upsr_is_weighted(monkeypatch):
    """A state is as far from its mean as the weight says, least where the estimate equals y."""
    chain, states = random_weights(UPSR), []
    monkeypatch.setattr(chain.denoiser, "forward", lambda x, told: states.append(x) or x[:, :48])
    stage = make_objective("denoiser", chain, UPSR, StageConfig(checkpoint_activations=False))
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)
    stage.predict(LR, HR)
    y, x0 = chain.encode(LR), chain.codec.encode(HR)
    (estimate, _), weight = chain.condition(LR, y)
    assert weight.min() < 0.9 < weight.max()
    torch.manual_seed(0)
    t = torch.randint(5, (2,))
    for number, state in enumerate(states[0]):
        scaled, seen, start = state.split(48)
        torch.testing.assert_close((seen, start), (estimate[number], y[number]))
        step, eta = chain.schedule.reverse_steps()[::-1][t[number]], chain.schedule.etas[t[number]]
        mean = x0[number] + eta * (y[number] - x0[number])
        noise = (scaled / step.input_scale - mean) / (chain.schedule.kappa * eta**0.5)
        torch.testing.assert_close(noise.float(), weight[number], atol=1e-3, rtol=1e-3)


def random_weights(preset):
    torch.manual_seed(0)
    chain = preset.build()
    for parameter in chain.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    return chain


def test_the_memory_of_upsr_is_estimated():
    found = estimate(UPSR, "denoiser", StageConfig(batch=2, crop=16, adversarial=0.0))
    built = UPSR.networks["denoiser"].build()
    assert found.trained == sum(parameter.numel() for parameter in built.parameters())
    assert min(found.checkpointed, found.activations) > 0


def test_the_estimate_counts_what_a_run_keeps(toy, tmp_path, capsys):
    settings = StageConfig(batch=2, crop=16, adversarial=0.0)
    found = estimate(toy, "noise_predictor", settings)
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    chain = built(toy)
    chain.noise_predictor.requires_grad_(True)
    plain = StageConfig(checkpoint_activations=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        stage = make_objective("noise_predictor", chain, toy, plain)
        torch.nn.functional.l1_loss(*stage.predict(LR, HR))
    measured = sum(storage.nbytes() for storage in kept.values())
    assert found.activations == pytest.approx(measured, rel=0.1)
    assert found.checkpointed < found.activations / 2
    assert found.trained == sum(p.numel() for p in chain.noise_predictor.parameters())

    assert main(["estimate", "--config", str(configured(tmp_path))]) == 0
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == list(STAGES)
