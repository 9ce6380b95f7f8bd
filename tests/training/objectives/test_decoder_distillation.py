"""Light decoders: both papers' losses by diffusers' own way from latent to image, and what stays fixed."""

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives.autoencoder import DecoderHalf, Terms
from mdrepro.training.objectives.decoder_distillation import DecoderDistillation, LiteDecoder
from mdrepro.training.objectives.synthetic import pruned
from tests.support.bare_loop import Held, fit

PLAIN = Terms(power=1, perceptual=0, adversarial=0)
HALF = vae.configuration("ours", 16)["decoder_block_out_channels"]


def autoencoder(seed, **changes):
    torch.manual_seed(seed)
    return vae.Autoencoder(**(vae.configuration("ours", 16) | changes)).eval()


@pytest.fixture
def teacher():
    return autoencoder(0, scaling_factor=0.4, shift_factor=0.1).requires_grad_(False)


@pytest.fixture
def student():
    return autoencoder(1, decoder_block_out_channels=tuple(w // 2 for w in HALF), decoder_norm_num_groups=2)


@pytest.fixture(scope="module")
def synthetic():
    return Held(latent=torch.randn(4, 8, 2, 2, generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def images():
    blocks = torch.randint(256, (4, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return Held(pixels=blocks.repeat_interleave(8, -1).repeat_interleave(8, -2))


def draws(count=4):
    return Draws(0, 0, 0, count, stream="decoder")


def parameters(network):
    return torch.cat([p.flatten() for p in network.parameters()])


def test_snapfusion_loss_is_the_mean_square_between_both_images(teacher, student, synthetic):
    objective = DecoderDistillation(student, teacher)
    loss = objective.losses("decoder", synthetic.columns, draws())["loss"].item()
    with torch.no_grad():
        z = synthetic.columns["latent"] / 0.4 + 0.1
        gap = (student.decode(z).sample - teacher.decode(z).sample).double()
    assert loss == pytest.approx(gap.pow(2).mean().item(), rel=1e-5)


def test_the_teachers_equal_has_nothing_to_learn(teacher, synthetic):
    copy = autoencoder(5)
    copy.load_state_dict(teacher.state_dict())
    assert DecoderDistillation(copy, teacher).losses("decoder", synthetic.columns, draws())["loss"].item() == 0


def test_snapfusion_student_comes_nearer_and_keeps_the_rest(teacher, student, synthetic):
    before = parameters(teacher)
    objective = DecoderDistillation(student, teacher)
    told = fit(objective, synthetic, 30)
    done = objective.finish(objective.networks)
    assert told[-1]["loss"] < 0.3 * told[0]["loss"]
    assert torch.equal(parameters(teacher), before)
    _same_latents(done, teacher)


def test_lite_decoder_learns_the_image_from_the_latents_mean(teacher, student, images):
    objective = LiteDecoder(student, teacher, PLAIN)
    found = objective.losses("decoder", images.columns, draws())
    with torch.no_grad():
        x = images.columns["pixels"] / 127.5 - 1
        y = student.decode(teacher.encode(x).latent_dist.mode()).sample
    assert found["loss"].item() == pytest.approx((x - y).abs().mean().item(), rel=1e-5)
    assert "kl" not in found
    assert list(objective.networks) == ["decoder"]
    told = fit(objective, images, 30)
    done = objective.finish(objective.networks)
    assert told[-1]["loss"] < 0.7 * told[0]["loss"]
    _same_latents(done, teacher)


def test_lite_decoder_can_have_a_discriminator(teacher, student, images):
    objective = LiteDecoder(student, teacher, Terms(perceptual=0, start=1, patch_width=8, patch_layers=1))
    told = fit(objective, images, 4)
    assert [phase.trains for phase in objective.phases] == [("decoder",), ("discriminator",)]
    assert told[0]["discriminator loss"] == 0 < told[1]["discriminator loss"]
    assert told[1]["balance"] > 0
    _same_latents(objective.model, teacher)


@pytest.mark.parametrize("kind", [DecoderDistillation, LiteDecoder])
def test_what_the_loop_returns_is_taken(teacher, student, kind):
    objective = kind(student, teacher) if kind is DecoderDistillation else kind(student, teacher, PLAIN)
    average = DecoderHalf(
        autoencoder(9, decoder_block_out_channels=tuple(w // 2 for w in HALF), decoder_norm_num_groups=2)
    )
    done = objective.finish({"decoder": average})
    assert torch.equal(parameters(DecoderHalf(done)), parameters(average))
    assert not done.training
    assert not any(p.requires_grad for p in done.parameters())


@pytest.mark.parametrize("kind", [DecoderDistillation, LiteDecoder])
def test_another_encoder_is_refused(teacher, kind):
    with pytest.raises(BadInput, match="encoders differ"):
        kind(autoencoder(1, latent_channels=4), teacher)


def _same_latents(ours, theirs):
    for mine, original in zip(vae.encoder_parts(ours), vae.encoder_parts(theirs), strict=True):
        assert torch.equal(parameters(mine), parameters(original))
    assert ours.config.scaling_factor == theirs.config.scaling_factor
    assert ours.config.shift_factor == theirs.config.shift_factor


@pytest.mark.parametrize("share", [0.0, -1.0, 0.01, 0.37])
def test_a_share_that_the_norms_cannot_group_is_one_error(teacher, share):
    with pytest.raises(BadInput, match=f"share {share}: the decoder's widths would be .* multiples of 4"):
        pruned(teacher, share=share)
    assert pruned(teacher, share=0.5).config.decoder_block_out_channels == tuple(w // 2 for w in HALF)
