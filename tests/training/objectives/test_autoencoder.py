"""The autoencoder's objective: each term by another source, the discriminator's phase, the latent's scale."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.metrics.image.catalogue import BACKBONES
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine import loop
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives import autoencoder
from mdrepro.training.objectives.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from mdrepro.training.objectives.autoencoder import (
    Autoencoding,
    DecoderHalf,
    EncoderHalf,
    PerceptualLoss,
    Terms,
    kl_loss,
    reconstruction_loss,
    unit_scale,
)
from tests.support.bare_loop import Held, choose, fit, freeze
from tests.support.weight_files import no_package, small_classifiers

PLAIN = Terms(power=1, perceptual=0, adversarial=0)
HEARD = Terms(power=1, perceptual=0, adversarial=0.5, start=3, patch_width=8, patch_layers=1)


def model(seed=0, **changes):
    torch.manual_seed(seed)
    made = vae.Autoencoder(**(vae.configuration("ours", 8) | changes))
    with torch.no_grad():
        made.quant_conv.bias.uniform_(-1, 1)
    return made


@pytest.fixture(scope="module")
def examples():
    rng = torch.Generator().manual_seed(1)
    blocks = torch.randint(256, (4, 3, 4, 4), dtype=torch.uint8, generator=rng)
    return Held(pixels=blocks.repeat_interleave(8, -1).repeat_interleave(8, -2))


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """A file of random AlexNet weights where torchvision would put the real ones."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.manual_seed(5)
    with small_classifiers():
        weights = torchvision.models.alexnet(weights=None).state_dict()
    torch.save({k: v for k, v in weights.items() if k.startswith("features")}, _file(tmp_path))
    return weights


def _file(folder):
    return folder / "checkpoints" / BACKBONES["alex"].file


def draws(step=0, first=0, count=4):
    return Draws(0, step, first, count, stream="test")


def test_reconstruction_losses():
    x, y = torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, -3.0]]]])
    assert reconstruction_loss(x, y, 1).item() == 2
    assert reconstruction_loss(x, y, 2).item() == 5


def test_kl_equals_torch_distributions():
    mean, logvar = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    normal = torch.distributions.Normal(mean, (logvar / 2).exp())
    truth = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum() / 2 / 48
    assert kl_loss(mean, logvar, 48).item() == pytest.approx(truth.item(), rel=1e-5)
    assert kl_loss(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), 1).item() == 0


def test_halves_are_diffusers_autoencoder(examples):
    net, x = model(), examples.columns["pixels"] / 127.5 - 1
    with torch.no_grad():
        posterior = net.encode(x).latent_dist
        mean, logvar = EncoderHalf(net)(x)
        assert torch.equal(mean, posterior.mean)
        assert torch.equal(logvar, posterior.logvar)
        assert torch.equal(DecoderHalf(net)(mean), net.decode(mean).sample)


def test_loss_is_absolute_error_and_kl_of_a_drawn_latent(examples):
    net, x = model(), examples.columns["pixels"] / 127.5 - 1
    found = Autoencoding(net, PLAIN, kl=0.01).losses("autoencoder", examples.columns, draws())
    with torch.no_grad():
        posterior = net.encode(x).latent_dist
        normal = torch.distributions.Normal(posterior.mean, posterior.std)
        image = net.decode(normal.loc + normal.scale * draws().normal(8, 4, 4)).sample
        kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum() / 4 / x[0].numel()
    assert found["reconstruction"].item() == pytest.approx(F.l1_loss(image, x).item(), rel=1e-5)
    assert found["kl"].item() == pytest.approx(0.01 * kl.item(), rel=1e-5)
    assert found["loss"].item() == pytest.approx(F.l1_loss(image, x).item() + 0.01 * kl.item(), rel=1e-5)
    assert "adversarial" not in found


def test_perceptual_loss_is_the_lpips_package(backbone):
    import lpips

    with small_classifiers():
        package = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    for part in range(1, 6):
        for index, layer in getattr(package.net, f"slice{part}").named_children():
            layer.load_state_dict({k: backbone[f"features.{index}.{k}"] for k in layer.state_dict()})
    x, y = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    gradients = []
    for network in (PerceptualLoss("alex"), package):
        made = y.clone().requires_grad_()
        distances = network(x, made).flatten()
        distances.sum().backward()
        gradients.append((distances.detach(), made.grad))
    assert torch.allclose(gradients[0][0], gradients[1][0], atol=1e-6)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-7)
    assert gradients[0][1].abs().max() > 1e-5
    assert not any(p.requires_grad for p in PerceptualLoss("alex").parameters())


def test_of_two_backbones_it_is_the_mean(backbone):
    torch.manual_seed(7)
    vgg = torchvision.models.vgg16(weights=None).features.state_dict()
    file = _file(Path(torch.hub.get_dir())).with_name(BACKBONES["vgg"].file)
    torch.save({f"features.{k}": v for k, v in vgg.items()}, file)
    x, y = torch.rand(2, 2, 3, 64, 64) * 2 - 1
    alone = [PerceptualLoss(net)(x, y) for net in ("alex", "vgg")]
    both = PerceptualLoss("alex+vgg")(x, y)
    assert both.shape == (2,)
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)
    assert not torch.allclose(alone[0], alone[1], rtol=0.1)
    with pytest.raises(BadInput, match=r"LPIPS backbone.*alex\+vgg"):
        Terms(backbone="vgg+squeeze")


def test_perceptual_gradient_is_finite_where_all_features_are_zero(backbone, tmp_path):
    silent = {k: -v.abs() if k.endswith("bias") else 0 * v for k, v in backbone.items() if k.startswith("features")}
    torch.save(silent, _file(tmp_path))
    y = torch.zeros(1, 3, 64, 64, requires_grad=True)
    distance = PerceptualLoss("alex")(torch.ones(1, 3, 64, 64), y)
    distance.sum().backward()
    assert distance.item() == 0
    assert y.grad.isfinite().all()


def test_perceptual_term_enters_with_its_weight(backbone):
    rng = torch.Generator().manual_seed(0)
    batch = {"pixels": torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8, generator=rng)}
    terms = Terms(power=2, perceptual=3.0, backbone="alex", adversarial=0)
    objective = Autoencoding(model(), terms, kl=0)
    freeze(objective)
    found = objective.losses("autoencoder", batch, draws(count=2))
    total = found["reconstruction"] + 3 * found["perceptual"]
    assert found["loss"].item() == pytest.approx(total.item(), rel=1e-6)
    assert found["perceptual"] > 0


def test_perceptual_term_without_weights_is_not_attempted(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "nowhere")
    no_package(monkeypatch, tmp_path)
    with pytest.raises(NotAttempted, match="vgg16-397923af"):
        Autoencoding(model(), Terms())
    Autoencoding(model(), Terms(perceptual=0))


def test_patch_discriminator_has_pix2pix_size_and_patches():
    assert sum(p.numel() for p in PatchDiscriminator().parameters()) == 2_765_633
    for layers, patch in ((1, 16), (2, 34), (3, 70)):
        judge = PatchDiscriminator(8, layers)
        for place, part in enumerate(judge):
            if isinstance(part, torch.nn.GroupNorm):
                judge[place] = torch.nn.Identity()
            if isinstance(part, torch.nn.Conv2d):
                torch.nn.init.constant_(part.weight, 0.01)
        x = torch.zeros(1, 3, 128, 128, requires_grad=True)
        logits = judge(x)
        logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
        seen = x.grad[0, 0].abs().sum(dim=0).nonzero().flatten()
        assert seen[-1] - seen[0] + 1 == patch


def test_adversarial_losses_equal_torchs():
    real, fake = torch.randn(2, 3, 1, 5, 5) * 2
    against = -torch.ones_like(real)
    hinge = F.hinge_embedding_loss(real, against) + F.hinge_embedding_loss(-fake, against)
    assert discriminator_loss(real, fake, "hinge").item() == pytest.approx(hinge.item() / 2, rel=1e-6)
    bce = F.binary_cross_entropy_with_logits
    told = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    assert discriminator_loss(real, fake, "bce").item() == pytest.approx(told.item() / 2, rel=1e-6)
    assert generator_loss(fake, "bce").item() == pytest.approx(bce(fake, torch.ones_like(fake)).item(), rel=1e-6)
    assert generator_loss(fake, "hinge").item() == pytest.approx(-fake.mean().item(), rel=1e-6)
    for loss in (lambda: discriminator_loss(real, fake, "wgan"), lambda: generator_loss(fake, "wgan")):
        with pytest.raises(BadInput, match="hinge, bce"):
            loss()


def test_adaptive_weight_in_closed_form():
    last = torch.zeros(2, requires_grad=True)
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert adaptive_weight(a @ last, b @ last, last).item() == pytest.approx(5 / 2.0001, rel=1e-6)
    assert adaptive_weight(a @ last, 0 * b @ last, last).item() == pytest.approx(1e4)
    assert not adaptive_weight(a @ last, b @ last, last).requires_grad


def test_adversarial_term_pulls_as_hard_as_the_rest(examples):
    objective = Autoencoding(model(), HEARD, kl=0)
    last = objective.model.decoder.conv_out.weight
    found = objective.losses("autoencoder", examples.columns, draws(step=3))
    pull = torch.autograd.grad(found["loss"], last)[0]
    quiet = objective.losses("autoencoder", examples.columns, draws(step=2))  # before the start
    quiet_again = objective.losses("autoencoder", examples.columns, draws(step=3))
    assert quiet["adversarial"] == quiet["balance"] == 0
    weight = 0.5 * found["balance"] * found["adversarial"]
    assert found["loss"].item() == pytest.approx((found["reconstruction"] + weight).item(), rel=1e-5)
    alone = torch.autograd.grad(reconstruction_loss(*_images(objective, examples, draws(step=3)), power=1), last)[0]
    assert (pull - alone).norm().item() == pytest.approx(0.5 * alone.norm().item(), rel=1e-2)
    assert quiet_again["loss"].item() == found["loss"].item()


def _images(objective, examples, rng):
    x = examples.columns["pixels"] / 127.5 - 1
    return x, objective.reconstruct(x, rng)[0]


@pytest.mark.parametrize("balance", autoencoder.BALANCES)
def test_each_phase_moves_its_own_networks(examples, balance):
    objective = Autoencoding(model(), Terms(perceptual=0, start=0, patch_width=8, patch_layers=1, balance=balance))
    judge = objective.networks["discriminator"]
    halves = [*objective.networks["encoder"].parameters(), *objective.networks["decoder"].parameters()]
    assert [phase.trains for phase in objective.phases] == [("encoder", "decoder"), ("discriminator",)]
    choose(objective, objective.phases[0])
    objective.losses("autoencoder", examples.columns, draws())["loss"].backward()
    assert all(p.grad is not None for p in halves)
    assert all(p.grad is None for p in judge.parameters())
    objective.model.zero_grad()
    choose(objective, objective.phases[1])
    objective.losses("discriminator", examples.columns, draws())["loss"].backward()
    assert all(p.grad is None for p in halves)
    assert all(p.grad.abs().max() > 0 for p in judge.parameters())


def test_discriminator_waits_for_its_start(examples):
    told = fit(Autoencoding(model(), HEARD), examples, 6)
    assert all(step["discriminator loss"] == 0 for step in told[:3])
    assert all(step["adversarial"] == 0 for step in told[:3])
    assert told[3]["discriminator loss"] == pytest.approx(1, abs=0.2)  # undecided: half of 1 + 1
    assert all(step["adversarial"] != 0 < step["balance"] for step in told[3:])
    assert told[-1]["reconstruction"] < told[0]["reconstruction"]


def test_discriminator_learns_to_tell_apart(examples):
    objective = Autoencoding(model(), Terms(perceptual=0, start=0, patch_width=8, patch_layers=1))
    objective.phases = objective.phases[1:]
    told = fit(objective, examples, 16)
    with torch.no_grad():
        x, y = _images(objective, examples, draws())
        real, fake = objective.networks["discriminator"](torch.cat([x, y])).chunk(2)
    assert real.mean() > 0.5 > -0.5 > fake.mean()
    assert told[-1]["loss"] < 0.5 < 0.9 < told[0]["loss"]


@pytest.mark.parametrize("phase", ["autoencoder", "discriminator"])
def test_a_batch_in_two_parts_gives_the_same_loss(examples, phase):
    terms = Terms(perceptual=0, start=0, patch_width=8, patch_layers=1, balance="constant")
    objective = Autoencoding(model(), terms)
    whole = objective.losses(phase, examples.columns, draws())["loss"].item()
    parts = [
        objective.losses(phase, examples.batch(range(first, first + 2)), draws(first=first, count=2))["loss"].item()
        for first in (0, 2)
    ]
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-5)
    assert parts[0] != parts[1]


def test_the_loop_trains_both_phases(examples, tmp_path):
    torch.manual_seed(0)
    objective = Autoencoding(model(), Terms(perceptual=0, start=2, patch_width=8, patch_layers=1))
    judge = copy.deepcopy(objective.networks["discriminator"])
    how = LoopConfig(steps=4, batch=4, log_every=1, weight_decay=0, learning_rates={"discriminator": 1e-4})
    outcome = loop.train(objective, examples, how, tmp_path)
    assert [row["discriminator/loss"] > 0 for row in outcome.losses] == [False, False, True, True]
    assert [row["autoencoder/balance"] > 0 for row in outcome.losses] == [False, False, True, True]
    assert outcome.losses[-1]["autoencoder/reconstruction"] < outcome.losses[0]["autoencoder/reconstruction"]
    for before, after in zip(judge.parameters(), outcome.networks["discriminator"].parameters(), strict=True):
        assert 0 < (before - after).abs().max() < 2.1e-4  # two of AdamW's steps
    assert objective.finish(outcome.networks, examples).config.scaling_factor > 0


def test_finish_scales_latents_to_unit_variance_and_saves_it(examples, tmp_path):
    objective = Autoencoding(model(), PLAIN)
    trained = {"encoder": EncoderHalf(model(3)), "decoder": DecoderHalf(model(4))}
    done = objective.finish(trained, examples)
    with torch.no_grad():
        x = examples.columns["pixels"] / 127.5 - 1
        z = model(3).encode(x).latent_dist.mean.double().numpy()
        assert torch.equal(done.decode(torch.ones(1, 8, 2, 2)).sample, model(4).decode(torch.ones(1, 8, 2, 2)).sample)
    assert done.config.scaling_factor == pytest.approx(1 / z.std(ddof=1), rel=1e-5)
    assert not done.training
    done.save_pretrained(tmp_path / "vae")
    again = vae.Autoencoder.from_pretrained(tmp_path / "vae")
    assert again.config.scaling_factor == done.config.scaling_factor
    assert unit_scale(again, examples, count=2) != done.config.scaling_factor


@pytest.mark.parametrize(
    "wrong", [{"power": 3}, {"kind": "wgan"}, {"balance": "none"}, {"start": -1}, {"adversarial": -1.0}]
)
def test_bad_terms(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        Terms(**wrong)


def test_other_bad_input():
    with pytest.raises(BadInput, match="pixel_range"):
        Autoencoding(model(pixel_range=(0.0, 1.0)), PLAIN)
    with pytest.raises(BadInput, match="width"):
        PatchDiscriminator(12)
    with pytest.raises(BadInput, match="layers"):
        PatchDiscriminator(8, 0)
