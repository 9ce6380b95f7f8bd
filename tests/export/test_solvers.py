"""Samplers in numpy against those of diffusers and `RenoisingScheduler`, step by step."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.renoise import RenoisingScheduler
from mdrepro.export.bundle import schedule
from mdrepro.export.solvers import Schedule

SD: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def _of(scheduler: Any) -> Schedule:
    return Schedule.from_json(schedule(scheduler))


def _run(scheduler: Any, steps: int) -> None:
    """Both take the same predictions and the same noise."""
    ours, random = _of(scheduler), np.random.default_rng(0)
    scheduler.set_timesteps(steps)
    times = ours.timesteps(steps)
    assert times == scheduler.timesteps.tolist()
    x = left = random.standard_normal((1, 4, 3, 5), dtype=np.float32)
    for index, time in enumerate(times):
        prediction = random.standard_normal(x.shape, dtype=np.float32)
        generator = torch.Generator().manual_seed(index)
        fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(index)).numpy()
        wanted = scheduler.step(
            torch.from_numpy(prediction), time, torch.from_numpy(left), generator=generator, return_dict=False
        )[0]
        left, x = wanted.numpy(), ours.step(x, prediction, times, index, fresh)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x, left, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("trailing", 8), ("trailing", 7), ("trailing", 1), ("leading", 50), ("linspace", 10)]
)
def test_ddim_is_diffusers(prediction: str, spacing: str, steps: int) -> None:
    options = {
        "clip_sample": False,
        "set_alpha_to_one": spacing != "leading",
        "steps_offset": int(spacing == "leading"),
    }
    _run(DDIMScheduler(**SD, **options, prediction_type=prediction, timestep_spacing=spacing), steps)


def test_ddim_with_clipping_and_a_last_level_of_pure_noise() -> None:
    options = {"clip_sample": True, "clip_sample_range": 0.7, "timestep_spacing": "trailing"}
    _run(DDIMScheduler(**SD, **options, prediction_type="sample"), 5)
    options = {"clip_sample": False, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    _run(DDIMScheduler(**SD, **options, prediction_type="v_prediction"), 8)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_renoising_is_the_schedulers(prediction: str, steps: int) -> None:
    _run(RenoisingScheduler(prediction_type=prediction), steps)


def test_noise_that_an_image_takes() -> None:
    assert _of(RenoisingScheduler()).draws(4) == 4
    assert _of(DDIMScheduler(**SD, timestep_spacing="trailing")).draws(4) == 1


def test_others_become_ddim_and_lcm_is_refused() -> None:
    found = schedule(EulerDiscreteScheduler(**SD, prediction_type="v_prediction"))
    assert (found["sampler"], found["prediction"], found["spacing"]) == ("ddim", "v_prediction", "trailing")
    assert found["levels"] == pytest.approx(DDIMScheduler(**SD).alphas_cumprod.tolist())
    with pytest.raises(BadInput, match="LCMScheduler"):
        schedule(LCMScheduler(**SD))


def test_bad_values_are_refused() -> None:
    good = schedule(DDIMScheduler(**SD, timestep_spacing="leading"))
    with pytest.raises(BadInput, match="1 to 1000"):
        Schedule.from_json(good).timesteps(0)
    with pytest.raises(BadInput, match="take more steps"):
        Schedule.from_json(good).timesteps(1)
    for name in ("sampler", "prediction", "spacing"):
        with pytest.raises(BadInput, match="allowed: "):
            Schedule.from_json(good | {name: "other"})
    with pytest.raises(BadInput, match="no schedule"):
        Schedule.from_json({"sampler": "ddim"})
