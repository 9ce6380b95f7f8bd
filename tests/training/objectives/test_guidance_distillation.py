"""Distillation conditioned on guidance against an exact teacher: what guidance, and two guided steps, come to."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.guidance import at_guidance
from mdrepro.training.objectives import guidance_distillation, progressive
from mdrepro.training.objectives.guidance_distillation import ConditionedProgressiveDistillation, GuidanceDistillation
from tests.support import bed, testbed
from tests.support.ideal import COUNT, Ideal, losses

WIDTH = 64


def w_of(condition: Tensor) -> Tensor:
    """The guidance scale back from its features: the slowest turns by a tenth a unit, so w up to 32 is one angle."""
    sine, cosine = condition.double()[:, WIDTH // 2 - 1], condition.double()[:, WIDTH - 1]
    return 1 + 10 * torch.atan2(sine, cosine)


class Guided(nn.Module):
    """The exact denoiser, guided by the w that it is given as an input and called with one branch."""

    def __init__(self, kind: str, off: float = 0.0) -> None:
        super().__init__()
        self.exact, self.config, self.off = bed.exact(kind), SimpleNamespace(time_cond_proj_dim=WIDTH), off
        self.seen: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, return_dict: bool, timestep_cond: Tensor) -> tuple[Tensor]:
        w = w_of(timestep_cond)
        self.seen.append(w)
        conditional, null = (self.exact(x_t, t, given)[0] for given in (text, torch.zeros_like(text)))
        return (conditional + (w - 1 + self.off)[:, None, None, None] * (conditional - null),)


class Perfect(Ideal):
    """What one step has to say to go where two of the guided exact denoiser's go, at the w that it is given."""

    def __init__(self, kind: str, steps: int) -> None:
        super().__init__(kind, steps)
        self.config = SimpleNamespace(time_cond_proj_dim=WIDTH)

    def forward(
        self, x_t: Tensor, t_b: Tensor, text: Tensor, return_dict: bool, timestep_cond: Tensor
    ) -> tuple[Tensor]:
        said = []
        for w, *row in zip(w_of(timestep_cond).tolist(), x_t.split(1), t_b, text.split(1), strict=True):
            self.w = w
            said.append(self.perfect(*row))
        return (torch.cat(said) + self.theta,)


def stage_one(kind: str = "v_prediction", off: float = 0.0, **changes: Any) -> GuidanceDistillation:
    return GuidanceDistillation(Guided(kind, off), bed.exact(kind), bed.scheduler(kind), bed.NULL, **changes)


def stage_two(kind: str = "v_prediction", steps: int = 4) -> ConditionedProgressiveDistillation:
    scheduler = bed.scheduler(kind, set_alpha_to_one=True)
    return ConditionedProgressiveDistillation(
        Perfect(kind, steps).double(), Guided(kind).double(), scheduler, bed.NULL, steps=steps, guidance=(1.0, 6.0)
    )


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_a_student_that_is_guided_by_its_input_has_no_loss_in_stage_one(kind: str) -> None:
    assert losses(stage_one(kind))["loss"] < 1e-5
    assert losses(stage_one(kind, off=0.5))["loss"] > 1e-2


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_a_perfect_student_has_no_loss_in_stage_two(kind: str) -> None:
    assert losses(stage_two(kind))["loss"] < 1e-4


def test_an_error_costs_its_truncated_snr() -> None:
    """A student off by 0.1 in v everywhere: 0.01 max(a^2, s^2) in the mean over the four times it starts from."""
    kept = bed.scheduler().alphas_cumprod[[999, 749, 499, 249]]
    made = stage_two()
    made.networks["unet"].theta.data.fill_(0.1)
    found = torch.stack([losses(made, step)["loss"].detach() for step in range(2)]).mean()
    wanted = 0.01 * torch.stack([kept, 1 - kept]).max(0).values.mean()
    assert found.item() == pytest.approx(wanted.item(), rel=0.1)


@pytest.mark.parametrize("fault", ["teacher not told w", "one step for two"])
def test_a_fault_gives_the_perfect_student_a_loss(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, right = stage_two(), at_guidance
    if fault == "teacher not told w":
        teacher = made.frozen["teacher"]
        monkeypatch.setattr(
            guidance_distillation,
            "at_guidance",
            lambda net, w, n: right(net, torch.ones_like(w) if net is teacher else w, n),
        )
    else:
        monkeypatch.setattr(
            guidance_distillation,
            "ddim",
            lambda net, s, x, t, *rest: progressive.ddim(net, s, x, (t[0], t[2]), *rest),
        )
    assert losses(made)["loss"] > 1e-3


def test_w_is_drawn_for_each_sample_and_given_to_both() -> None:
    made = stage_one(guidance=(2.0, 6.0))
    for step in range(8):
        losses(made, step)
    w = torch.cat(made.networks["unet"].seen)
    assert w.min() >= 2 - 1e-4
    assert w.max() <= 6 + 1e-4
    assert w.mean() == pytest.approx(4, abs=0.25)
    assert len(w.unique()) > 0.99 * len(w)
    teacher, student = Guided("v_prediction").double(), Guided("v_prediction").double()
    two = ConditionedProgressiveDistillation(student, teacher, bed.scheduler(), bed.NULL, steps=4)
    losses(two)
    assert len(teacher.seen) == 2
    assert all(torch.equal(seen, student.seen[0]) for seen in teacher.seen)


def test_stage_one_is_trained_at_all_times() -> None:
    made, times = stage_one(), []
    made.networks["unet"].register_forward_pre_hook(lambda _, given: times.append(given[1]))
    for step in range(40):
        losses(made, step)
    found = torch.cat(times).double()
    assert len(found) == 40 * COUNT
    assert found.min() < 5
    assert found.max() > 994
    assert found.mean() == pytest.approx(499.5, abs=20)


def test_what_is_not_allowed_is_said() -> None:
    bare = testbed.ToyDenoiser(4)
    bare.config = SimpleNamespace()
    with pytest.raises(BadInput, match="the student has no guidance input"):
        GuidanceDistillation(bare, bed.exact(), bed.scheduler(), bed.NULL)
    for bad in ((0.5, 2.0), (3.0, 2.0)):
        with pytest.raises(BadInput, match="it must be a range from 1"):
            stage_one(guidance=bad)
    made = stage_two()
    made.steps = 501
    with pytest.raises(BadInput, match="a student of 501 steps"):
        losses(made)


class Toy(nn.Module):
    """A perceptron that takes w as an input, as more text."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = testbed.ToyDenoiser(len(bed.RING.chosen) + WIDTH)
        self.config = SimpleNamespace(time_cond_proj_dim=WIDTH)

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, return_dict: bool, timestep_cond: Tensor) -> tuple[Tensor]:
        return self.inner(x_t, t, torch.cat([text, timestep_cond[:, None].to(text)], dim=2))


@pytest.mark.slow
def test_one_branch_learns_where_two_go() -> None:
    """Trained on the ring in stage one, the same noise ends nearest where the exact teacher with that w ends."""
    torch.manual_seed(0)
    made = GuidanceDistillation(Toy(), bed.exact(), bed.scheduler(), bed.NULL, guidance=(1.0, 6.0))
    net = bed.fit(made, 1500, learning_rate=2e-3)["unet"]
    noise, text, _ = bed.questions(2000)
    ends = {w: testbed.sample(bed.exact(), bed.scheduler(), noise, text, 16, guidance=w) for w in (1.0, 5.0)}
    for w, other in ((1.0, 5.0), (5.0, 1.0)):
        told = at_guidance(net, torch.full((2000,), w), WIDTH)
        reached = testbed.sample(told, bed.scheduler(), noise, text, 16)
        away = {goal: testbed.pair_distance(reached, ends[goal]) for goal in ends}
        assert away[w] < 0.35
        assert away[w] < away[other] - 0.01
