"""Progressive distillation: the known two steps of an exact teacher, and its guided variant."""

import copy

import pytest
import torch

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.noise import NoiseSchedule
from mdrepro.training.objectives import progressive
from mdrepro.training.objectives.progressive import ProgressiveDistillation, clean_target
from tests.support import bed, testbed
from tests.support.ideal import COUNT, Ideal, losses


class Unguided(Ideal):
    """A perfect student that needs no guidance: it says what the guided teacher's two steps come to."""

    def forward(self, x_t: torch.Tensor, t_b: torch.Tensor, text: torch.Tensor, return_dict: bool) -> tuple:
        rows = zip(x_t.split(1), t_b, text.split(1), strict=True)
        return (torch.cat([self.perfect(*row) for row in rows]) + self.theta,)


def objective(
    kind: str = "v_prediction", w: float = 3.0, steps: int = 4, theta: float = 0.0, drop: float = 0.0
) -> ProgressiveDistillation:
    student, given = Unguided(kind, steps, w, theta).double(), (bed.exact(kind), bed.scheduler(kind), bed.NULL)
    return ProgressiveDistillation(student, *given, steps=steps, guidance=w, drop=drop)


@pytest.mark.parametrize(("kind", "w"), [("v_prediction", 1.0), ("v_prediction", 3.0), ("epsilon", 3.0)])
def test_a_perfect_student_has_no_loss(kind: str, w: float) -> None:
    assert losses(objective(kind, w))["loss"] < 1e-5


def test_a_share_of_the_texts_is_the_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of student and teacher: guided or not, what is asked of the empty text is its own two steps."""
    made, seen = objective(drop=0.25), []
    assert losses(made)["loss"] < 1e-5
    right = progressive.predict
    monkeypatch.setattr(progressive, "predict", lambda *given: seen.append(given[-1]) or right(*given))
    for step in range(4):
        losses(made, step)
    texts = seen[2::3]
    assert all(text.shape[0] == COUNT for text in texts)
    assert torch.cat([(text == bed.NULL).all(2).all(1) for text in texts]).double().mean() == pytest.approx(
        0.25, abs=0.08
    )
    with pytest.raises(BadInput, match="drop 2: it must be a share from 0 to 1"):
        objective(drop=2)


def test_an_error_costs_its_truncated_snr() -> None:
    """A student off by 0.1 in v everywhere: 0.01 max(a^2, s^2) in the mean over the four times it starts from."""
    kept = bed.scheduler().alphas_cumprod[[999, 749, 499, 249]]
    made = objective(w=1.0, theta=0.1)
    found = torch.stack([losses(made, step)["loss"].detach() for step in range(4)]).mean()
    wanted = 0.01 * torch.stack([kept, 1 - kept]).max(0).values.mean()
    assert found.item() == pytest.approx(wanted.item(), rel=0.1)


@pytest.mark.parametrize("fault", ["one step for two", "teacher not guided"])
def test_a_fault_gives_the_perfect_student_a_loss(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = progressive.ddim
    if fault == "teacher not guided":
        monkeypatch.setattr(progressive, "ddim", lambda *given: right(*given[:-1], None))
    else:
        monkeypatch.setattr(progressive, "ddim", lambda net, s, x, t, *rest: right(net, s, x, (t[0], t[2]), *rest))
    assert losses(objective())["loss"] > 1e-3


def test_the_target_is_where_one_ddim_step_leads() -> None:
    """For any latent at any pair of levels, the clean end among them: DDIM's formula solved forwards."""
    schedule = NoiseSchedule.from_scheduler(bed.scheduler())
    t, later = torch.tensor([999, 999, 500, 3]), torch.tensor([998, -1, 100, -1])
    x_t, x_later = torch.randn(2, 4, 3, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = clean_target(schedule, x_t, x_later, t, later)
    kept = torch.cat([bed.scheduler().alphas_cumprod, torch.ones(1)]).double()
    (a, s), (a_later, s_later) = (
        (kept[time].sqrt()[:, None, None, None], (1 - kept[time]).sqrt()[:, None, None, None]) for time in (t, later)
    )
    noise = (x_t - a * target) / s
    torch.testing.assert_close(a_later * target + s_later * noise, x_later)


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(BadInput, match="a student of 501 steps: it must have 1 to 500"):
        losses(ProgressiveDistillation(bed.exact(), bed.exact(), bed.scheduler(), bed.NULL, steps=501))


@pytest.mark.slow
def test_a_chain_of_two_keeps_the_first_teachers_guidance() -> None:
    """16 guided steps (w = 2) of the exact teacher -> 8 -> 4 without guidance; the same noise leads to the same end."""
    noise, text, truth = bed.questions()
    goal = testbed.sample(bed.exact(), bed.scheduler(), noise, text, 16, guidance=2.0)
    teacher, guidance = bed.exact(), 2.0
    student = bed.trained()
    for steps in (8, 4):
        made = ProgressiveDistillation(student, teacher, bed.scheduler(), bed.NULL, steps=steps, guidance=guidance)
        teacher, guidance = bed.fit(made, 600)["unet"], 1.0
        student = copy.deepcopy(teacher).requires_grad_(True)
    short = testbed.sample(bed.exact(), bed.scheduler(), noise, text, 4, guidance=2.0)
    reached = testbed.sample(student, bed.scheduler(), noise, text, 4)
    assert testbed.pair_distance(reached, goal) < 0.3 < testbed.pair_distance(short, goal)
    assert bed.right(reached, text) > 0.93
    assert testbed.sliced_wasserstein(reached, truth) < 0.15
