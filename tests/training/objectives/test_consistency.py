"""Consistency distillation against diffusers' LCM and DDIM schedulers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.noise import NoiseSchedule
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives import consistency, progressive
from mdrepro.training.objectives.consistency import (
    ConsistencyDistillation,
    boundary_scalings,
    consistency_function,
    pseudo_huber,
)
from tests.support import bed, testbed

COUNT = 24


def lcm() -> LCMScheduler:
    return LCMScheduler.from_config(bed.scheduler().config, timestep_spacing="leading")


def objective(**settings: Any) -> ConsistencyDistillation:
    torch.manual_seed(0)
    made = ConsistencyDistillation(testbed.ToyDenoiser(4), bed.exact(), bed.scheduler(), bed.NULL, **settings)
    made.ema["unet"] = testbed.ToyDenoiser(4)
    return made


def losses(made: ConsistencyDistillation) -> Tensor:
    return made.losses("unet", bed.examples().batch(range(COUNT)), Draws(0, 0, 0, COUNT))["loss"]


def recomputed(made: ConsistencyDistillation) -> Tensor:
    """The loss point by point, with diffusers' step, boundary scalings and times."""
    batch, draws = bed.examples().batch(range(COUNT)), Draws(0, 0, 0, COUNT)
    times, ddim, boundary = lcm(), bed.scheduler(set_alpha_to_one=False), lcm()
    times.set_timesteps(50)
    ddim.set_timesteps(50)
    t_b = times.timesteps.flip(0)[draws.integers(1, 51) - 1]
    noise, w_b = draws.normal(2, 1, 1), draws.uniform(3.0, 15.0)

    def f(net: nn.Module, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        skip, out = boundary.get_scalings_for_boundary_condition_discrete(t)
        said = net(x, t[None], text)[0]
        a, s = ddim.alphas_cumprod[t].sqrt(), (1 - ddim.alphas_cumprod[t]).sqrt()
        return skip * x + out * (a * x - s * said)

    errors = []
    for index in range(COUNT):
        one, t, w = slice(index, index + 1), t_b[index], w_b[index]
        text = batch["text"][one]
        x_t = ddim.add_noise(batch["latent"][one], noise[one], t[None])
        said, null = (made.frozen["teacher"](x_t, t, given)[0] for given in (text, torch.zeros_like(text)))
        later = ddim.step(said + (w - 1) * (said - null), t, x_t).prev_sample
        after = (t - 20).clamp(min=0)
        target = f(made.ema["unet"], later, after, text).detach()
        errors.append(f(made.networks["unet"], x_t, t, text) - target)
    return torch.mean(torch.sqrt(torch.cat(errors) ** 2 + 0.001**2) - 0.001)


def test_the_loss_and_its_gradient_are_the_recomputed_ones() -> None:
    made = objective()
    weight = made.networks["unet"].last.weight
    mine, theirs = losses(made), recomputed(made)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=0)
    slopes = [torch.autograd.grad(loss, weight)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-5)


_SCALINGS, _STEP, _F = boundary_scalings, consistency.ddim, consistency_function
FAULTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "c_skip and c_out exchanged": (consistency, "boundary_scalings", lambda t, x: _SCALINGS(t, x)[::-1]),
    "teacher not guided": (consistency, "ddim", lambda *given: _STEP(*given[:-1], None)),
    "guidance 1 + w": (consistency, "ddim", lambda *given: _STEP(*given[:-1], given[-1] + 1)),
    "sign of guidance": (progressive, "guide", lambda c, n, w: n + w.reshape(-1, 1, 1, 1) * (n - c)),
    "no step of the teacher": (consistency, "ddim", lambda *given: given[2]),
    "all times as the student's": (
        consistency,
        "consistency_function",
        lambda net, s, x, t, text: _F(net, s, x, torch.where(torch.tensor(torch.is_grad_enabled()), t, t + 20), text),
    ),
    "absolute error unsmoothed and squared": (consistency, "pseudo_huber", lambda error, c: error.square().mean()),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_the_loss(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = objective()
    right = recomputed(made)
    monkeypatch.setattr(*FAULTS[fault])
    assert abs(losses(made) / right - 1) > 0.003


def test_the_student_is_not_its_own_target() -> None:
    made = objective()
    right = losses(made)
    made.ema["unet"] = made.networks["unet"]
    assert abs(losses(made) / right - 1) > 0.05


def test_the_boundary_is_the_latent_itself() -> None:
    schedule, x = NoiseSchedule.from_scheduler(bed.scheduler()), torch.randn(3, 2, 1, 1)
    net = testbed.ToyDenoiser(4)
    made = consistency_function(net, schedule, x, torch.tensor([0, 0, 500]), torch.zeros(3, 1, 4))
    assert torch.equal(made[:2], x[:2])
    for t in (0, 19, 39, 999):
        theirs = lcm().get_scalings_for_boundary_condition_discrete(t)
        lcm_scalings = tuple(float(value) for value in theirs)
        mine = [value.item() for value in boundary_scalings(torch.tensor([t]), x.double()[:1])]
        assert mine == pytest.approx(lcm_scalings, abs=1e-9)


def test_pseudo_huber_is_quadratic_near_zero_and_linear_far_away() -> None:
    assert pseudo_huber(torch.tensor([1e-3], dtype=torch.float64), 1.0).item() == pytest.approx(0.5e-6, rel=1e-3)
    assert pseudo_huber(torch.tensor([-100.0, 100.0]), 0.001).item() == pytest.approx(100, rel=1e-3)


def test_only_the_student_gets_a_gradient() -> None:
    made = objective()
    losses(made).backward()
    assert all(p.grad is None for p in made.ema["unet"].parameters())
    assert all(p.grad is not None for p in made.networks["unet"].parameters())


def test_what_is_not_allowed_is_said() -> None:
    made = objective()
    made.ema.clear()
    with pytest.raises(BadInput, match="ema must be above 0"):
        losses(made)
    for bad in ({"guidance": (0.0, 2.0)}, {"guidance": (3.0, 2.0)}, {"solver_steps": 0}, {"solver_steps": 1001}):
        with pytest.raises(BadInput, match="must be"):
            objective(**bad)


@pytest.mark.slow
def test_one_step_ends_where_the_guided_trajectory_does() -> None:
    """Guided by 2 as the exact teacher's 50 steps, which the teacher's single step misses everywhere."""
    made = ConsistencyDistillation(
        bed.trained(), bed.exact(), bed.scheduler(), bed.NULL, guidance=(2.0, 2.0), huber=0.1
    )
    net = bed.fit(made, 1200, ema=0.95)["unet"]
    noise, text, truth = bed.questions()
    goal = testbed.sample(bed.exact(), bed.scheduler(), noise, text, 50, guidance=2.0)
    once = testbed.sample(net, lcm(), noise, text, 1)
    assert testbed.pair_distance(once, goal) < 0.45
    assert bed.right(once, text) > 0.65
    more = testbed.sample(net, lcm(), noise, text, 4, generator=torch.Generator().manual_seed(0))
    assert bed.right(more, text) > 0.75
    assert testbed.sliced_wasserstein(more, truth) < 0.18
