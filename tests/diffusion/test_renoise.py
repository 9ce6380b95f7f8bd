"""UFOGen's sampler against its formula."""

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.renoise import RenoisingScheduler


def levels():
    """a and s of SD-1.5's schedule, made by hand in float64."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    return kept.sqrt(), (1 - kept).sqrt()


@pytest.mark.parametrize(("steps", "times"), [(1, [999]), (2, [999, 499]), (4, [999, 749, 499, 249])])
def test_levels_are_ufogens(steps, times):
    scheduler = RenoisingScheduler()
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == times


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_steps_follow_the_formula(kind):
    a, s = levels()
    x0, e = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    scheduler = RenoisingScheduler(prediction_type=kind)
    scheduler.set_timesteps(4)
    x = (a[749] * x0 + s[749] * e).float()
    v = (a[749] * e - s[749] * x0).float()
    prediction = {"epsilon": e, "v_prediction": v, "sample": x0}[kind]
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    out = scheduler.step(prediction, torch.tensor(749), x, generator=seeds)
    torch.testing.assert_close(out.pred_original_sample, x0, atol=1e-5, rtol=1e-5)
    fresh = torch.cat([torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)])
    torch.testing.assert_close(out.prev_sample, (a[499] * x0 + s[499] * fresh).float(), atol=1e-5, rtol=1e-5)
    last = (a[249] * x0 + s[249] * e).float()
    v = (a[249] * e - s[249] * x0).float()
    prediction = {"epsilon": e, "v_prediction": v, "sample": x0}[kind]
    torch.testing.assert_close(scheduler.step(prediction, 249, last, return_dict=False)[0], x0, atol=1e-5, rtol=1e-5)


def test_noise_schedules_pass_between_it_and_diffusers():
    euler = EulerDiscreteScheduler(beta_start=0.001, beta_end=0.02, beta_schedule="linear", prediction_type="sample")
    ours = RenoisingScheduler.from_config(euler.config)
    torch.testing.assert_close(ours.alphas_cumprod, euler.alphas_cumprod)
    assert ours.config.prediction_type == "sample"
    theirs = DDIMScheduler.from_config(ours.config)
    torch.testing.assert_close(theirs.alphas_cumprod, ours.alphas_cumprod)


def test_zero_terminal_snr_starts_at_pure_noise():
    scheduler = RenoisingScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert scheduler.alphas_cumprod[-1] < 1e-6
    x = torch.randn(1, 1, 2, 2)
    scheduler.set_timesteps(1)
    torch.testing.assert_close(scheduler.step(-x, 999, torch.randn(1, 1, 2, 2)).prev_sample, x, atol=1e-3, rtol=1e-3)


def test_bad_settings_are_refused():
    for settings in ({"prediction_type": "noise"}, {"rescale_betas_zero_snr": True}):
        with pytest.raises(BadInput):
            RenoisingScheduler(**settings)
    for steps in (0, 1001):
        with pytest.raises(BadInput, match="it must be 1 to 1000"):
            RenoisingScheduler().set_timesteps(steps)
