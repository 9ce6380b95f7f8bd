"""Levels, targets and conversions against diffusers' schedulers."""

import itertools

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import nn

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.noise import CLEAN, PREDICTIONS, NoiseSchedule, per_sample, predict
from mdrepro.diffusion.renoise import RenoisingScheduler
from tests.support.bed import scheduler

TIMES = torch.tensor([0, 1, 249, 500, 998, 999])
CHANCE = torch.Generator().manual_seed(0)
X0, NOISE, SAID = (torch.randn(6, 4, 3, 5, generator=CHANCE, dtype=torch.float64) for _ in range(3))


def test_noise_is_added_as_diffusers_adds_it() -> None:
    theirs = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    ours = NoiseSchedule.from_scheduler(theirs)
    torch.testing.assert_close(ours.add_noise(X0, NOISE, TIMES), theirs.add_noise(X0, NOISE, TIMES), rtol=0, atol=1e-6)


def test_targets_are_what_diffusers_trains_on() -> None:
    v = NoiseSchedule.from_scheduler(scheduler("v_prediction"))
    torch.testing.assert_close(
        v.target(X0, NOISE, TIMES), DDPMScheduler.from_config(scheduler().config).get_velocity(X0, NOISE, TIMES)
    )
    assert torch.equal(NoiseSchedule.from_scheduler(scheduler("epsilon")).target(X0, NOISE, TIMES), NOISE)
    assert torch.equal(NoiseSchedule.from_scheduler(scheduler("sample")).target(X0, NOISE, TIMES), X0)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_reading_of_the_target_gives_back_what_it_was_made_of(kind: str) -> None:
    ours, v = NoiseSchedule.from_scheduler(scheduler(kind)), NoiseSchedule.from_scheduler(scheduler("v_prediction"))
    x_t, said = ours.add_noise(X0, NOISE, TIMES), ours.target(X0, NOISE, TIMES)
    torch.testing.assert_close(ours.x0(said, x_t, TIMES), X0)
    torch.testing.assert_close(ours.noise(said, x_t, TIMES), NOISE)
    torch.testing.assert_close(ours.v(said, x_t, TIMES), v.target(X0, NOISE, TIMES))


@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_step_is_that_of_ddim(kind: str, to_one: bool) -> None:
    theirs = scheduler(kind, set_alpha_to_one=to_one)
    theirs.set_timesteps(8)
    ours = NoiseSchedule.from_scheduler(theirs)
    times = ours.trailing(8)
    assert times[-1] == CLEAN
    for now, after in itertools.pairwise(times):
        right = theirs.step(SAID, int(now), X0)
        now_b, after_b = now.expand(6), after.expand(6)
        clean, noise = ours.x0(SAID, X0, now_b), ours.noise(SAID, X0, now_b)
        torch.testing.assert_close(clean, right.pred_original_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.add_noise(clean, noise, after_b), right.prev_sample, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 16, 32, 50, 64, 1000])
def test_times_are_those_that_the_pipeline_visits(steps: int) -> None:
    theirs = scheduler()
    theirs.set_timesteps(steps)
    ours = NoiseSchedule.from_scheduler(theirs)
    assert torch.equal(ours.trailing(steps)[:-1], theirs.timesteps)
    if 2 * steps <= ours.total:
        assert torch.equal(ours.trailing(2 * steps)[::2], ours.trailing(steps))


def test_any_scheduler_will_do_and_a_level_of_pure_noise_with_v() -> None:
    config = scheduler().config
    for other in (DPMSolverMultistepScheduler.from_config(config), RenoisingScheduler.from_config(config)):
        ours = NoiseSchedule.from_scheduler(other)
        torch.testing.assert_close(
            ours.add_noise(X0, NOISE, TIMES), scheduler().add_noise(X0, NOISE, TIMES), rtol=0, atol=1e-6
        )
        assert torch.equal(ours.add_noise(X0, NOISE, torch.full((6,), CLEAN)), X0)
    pure = NoiseSchedule.from_scheduler(scheduler(rescale_betas_zero_snr=True))
    last = torch.full((6,), 999)
    assert torch.equal(pure.add_noise(X0, NOISE, last), NOISE)
    torch.testing.assert_close(pure.x0(-X0, NOISE, last), X0)


def test_the_last_step_of_a_schedule_that_ends_above_zero() -> None:
    ours = NoiseSchedule.from_scheduler(scheduler(set_alpha_to_one=False))
    torch.testing.assert_close(
        ours.add_noise(X0, NOISE, torch.full((6,), CLEAN)), ours.add_noise(X0, NOISE, torch.zeros(6, dtype=torch.long))
    )


def test_types_are_those_of_the_data_and_at_least_float32() -> None:
    ours = NoiseSchedule.from_scheduler(scheduler())
    for given, made in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert ours.level(TIMES, X0.to(given))[0].dtype == made
        assert ours.snr(TIMES).dtype == torch.float32

    class Half(nn.Module):
        def forward(self, x_t: torch.Tensor, t: object, text: object, return_dict: bool) -> tuple[torch.Tensor]:
            assert not return_dict
            return (x_t.bfloat16(),)

    assert predict(Half(), X0, TIMES, X0).dtype == torch.float32
    torch.testing.assert_close(per_sample(X0), torch.stack([one.mean() for one in X0]))


def test_what_is_not_allowed_is_said() -> None:
    with pytest.raises(BadInput, match=r"prediction_type 'velocity'.*allowed: epsilon, v_prediction, sample"):
        NoiseSchedule(torch.tensor([0.9, 0.5]), "velocity")
    with pytest.raises(BadInput, match="epsilon does not determine x0"):
        NoiseSchedule.from_scheduler(DDIMScheduler(rescale_betas_zero_snr=True))
    for steps in (0, 1001):
        with pytest.raises(BadInput, match=f"{steps} steps: it must be 1 to 1000"):
            NoiseSchedule.from_scheduler(scheduler()).trailing(steps)
