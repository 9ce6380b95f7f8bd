"""The test bed's formulas against torch.distributions, automatic differentiation and closed forms."""

import math

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from mdrepro.diffusion.noise import PREDICTIONS, NoiseSchedule
from tests.support import bed, testbed


def log_density(x: Tensor, text: Tensor, kept: Tensor) -> Tensor:
    """log p_t of points (b, 2), by torch.distributions."""
    weights = text[:, 0] @ bed.RING.chosen.double()
    weights = torch.where(text.sum((1, 2))[:, None] > 0, weights, torch.full_like(weights, 1 / 8))
    spread = (kept * bed.RING.std**2 + 1 - kept).sqrt()[:, None, None].expand(-1, 8, 2)
    modes = Independent(Normal(kept.sqrt()[:, None, None] * bed.RING.means.double(), spread), 1)
    return MixtureSameFamily(Categorical(weights), modes).log_prob(x)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_exact_denoiser_is_the_score(kind: str) -> None:
    """x0 = (x_t + s^2 grad log p_t) / a (Tweedie), the gradient by automatic differentiation."""
    generator = torch.Generator().manual_seed(0)
    t = torch.randint(1000, (200,), generator=generator)
    text = torch.cat([bed.RING.text(torch.arange(100) % 4), torch.zeros(100, 1, 4)]).double()
    kept = bed.scheduler().alphas_cumprod.double()[t]
    truth = bed.RING.sample(text.float(), generator).double()
    x_t = bed.scheduler().add_noise(truth, torch.randn(200, 2, 1, 1, generator=generator).double(), t)
    point = x_t[:, :, 0, 0].clone().requires_grad_(True)
    (score,) = torch.autograd.grad(log_density(point, text, kept).sum(), point)
    a, s = kept.sqrt()[:, None, None, None], (1 - kept).sqrt()[:, None, None, None]
    noise = -s * score[:, :, None, None]
    clean = (x_t - s * noise) / a
    wanted = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}[kind]
    torch.testing.assert_close(bed.exact(kind)(x_t, t, text)[0], wanted, rtol=1e-5, atol=1e-6)


def test_the_exact_denoiser_takes_one_time_for_all() -> None:
    x_t, text, _ = bed.questions(5)
    for time in (300, torch.tensor(300)):
        assert torch.equal(bed.exact()(x_t, time, text)[0], bed.exact()(x_t, torch.full((5,), 300), text)[0])


def test_points_come_from_the_modes_that_their_text_chooses() -> None:
    generator = torch.Generator().manual_seed(0)
    text = bed.RING.text(torch.full((20_000,), 1))
    points = bed.RING.sample(text, generator)
    shares = testbed.mode_shares(points, bed.RING)
    assert shares[[1, 5]] == pytest.approx((1 - math.exp(-4.5)) / 2, abs=0.02)
    assert shares.sum() == pytest.approx(1 - math.exp(-4.5), abs=0.003)
    away = torch.cdist(points[:, :, 0, 0], bed.RING.means[[1, 5]]).min(1).values
    assert away.square().mean() == pytest.approx(2 * bed.RING.std**2, rel=0.03)
    everywhere = bed.RING.sample(bed.NULL.expand(20_000, 1, 4), generator)
    shares = testbed.mode_shares(everywhere, bed.RING)
    assert shares == pytest.approx((1 - math.exp(-4.5)) / 8, abs=0.01)
    assert everywhere.var(0).flatten() == pytest.approx(1 + bed.RING.std**2, abs=0.03)


def test_examples_are_a_function_of_seed_and_index() -> None:
    made, again, other = (testbed.MixtureExamples(bed.RING, 50, seed) for seed in (0, 0, 1))
    assert made.fingerprint == again.fingerprint != other.fingerprint
    assert len(made) == 50
    batch = made.batch([7, 3])
    assert torch.equal(batch["latent"], again.batch(range(50))["latent"][[7, 3]])
    assert batch["text"].shape == (2, 1, 4)


def test_distance_of_a_shifted_set_is_known() -> None:
    """A shift by d moves a projection by d cos: d / sqrt 2 in the mean square over all directions."""
    x = torch.randn(500, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    shift = torch.tensor([3.0, 4.0])[None, :, None, None]
    shuffled = (x + shift)[torch.randperm(500)]
    assert testbed.sliced_wasserstein(x, shuffled) == pytest.approx(5 / math.sqrt(2), rel=1e-5)
    assert testbed.pair_distance(x, x + shift) == pytest.approx(5)
    assert testbed.sliced_wasserstein(x, x[torch.randperm(500)]) == 0


def test_distance_on_one_line_is_scipys() -> None:
    """Its root mean square differences, for two sets of which one is nowhere left of the other, are its mean ones."""
    x = torch.rand(300, 2, 1, 1, generator=torch.Generator().manual_seed(0))
    y = torch.rand(300, 2, 1, 1, generator=torch.Generator().manual_seed(1))
    mine = testbed.sliced_wasserstein(x, y, directions=1)
    theirs = wasserstein_distance(x[:, 0, 0, 0].numpy(), y[:, 0, 0, 0].numpy())
    assert theirs <= mine < 3 * theirs
    levels = torch.stack([x[:, 0, 0, 0].sort().values, y[:, 0, 0, 0].sort().values])
    assert theirs == pytest.approx((levels[0] - levels[1]).abs().mean().item(), rel=1e-4)


def test_a_missing_mode_is_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    points = bed.RING.sample(bed.RING.text(torch.randint(3, (5000,), generator=generator)), generator)
    shares = testbed.mode_shares(points, bed.RING)
    assert shares[[3, 7]].tolist() == [0, 0]
    assert shares.sum() == pytest.approx(1 - math.exp(-4.5), abs=0.01)
    assert testbed.sliced_wasserstein(points, bed.RING.sample(bed.NULL.expand(5000, 1, 4), generator)) > 0.1


def test_samples_of_the_exact_denoiser_are_the_mixture() -> None:
    """In 50 DDIM steps, which sharpen it a little."""
    noise, text, truth = bed.questions(5000)
    made = testbed.sample(bed.exact(), bed.scheduler(), noise, text, 50)
    assert testbed.sliced_wasserstein(made, truth) < 0.06
    assert bed.right(made, text) > 0.985


def test_guidance_in_sampling_is_the_papers() -> None:
    class Says(nn.Module):
        def forward(self, x: Tensor, t: object, text: Tensor, return_dict: bool) -> tuple[Tensor]:
            return ((1 + text[:, 0, :1, None, None]) * torch.ones_like(x),)

    noise, text, _ = bed.questions(4)
    text = torch.full_like(text, 2.0)
    scheduler = bed.scheduler()
    made = testbed.sample(Says(), scheduler, noise, text, 1, guidance=3.0)
    wanted = scheduler.step(torch.full_like(noise, 3 * 3.0 - 2 * 1.0), 999, noise).prev_sample
    torch.testing.assert_close(made, wanted)


def test_the_toy_discriminator_begins_undecided_with_the_denoisers_features() -> None:
    torch.manual_seed(0)
    denoiser = testbed.ToyDenoiser(4)
    judge = testbed.ToyDiscriminator(denoiser)
    x, text, _ = bed.questions(6)
    t = torch.arange(6)
    assert torch.equal(judge(x, t, text), torch.zeros(6, 1, 1, 1))
    assert torch.equal(judge.body.features(x, t, text), denoiser.features(x, t, text))
    assert isinstance(denoiser.last, nn.Linear)
    assert NoiseSchedule.from_scheduler(bed.scheduler()).total == 1000
