"""SnapFusion's step distillation against diffusers' DDIM with an exact teacher, whose two steps are known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.noise import NoiseSchedule
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives import progressive, step_distillation
from mdrepro.training.objectives.progressive import guide, x0_loss
from mdrepro.training.objectives.step_distillation import StepDistillation, dynamic, original_loss
from tests.support import bed, testbed
from tests.support.ideal import COUNT, Ideal, losses


def objective(kind: str = "v_prediction", w: float = 3.0, steps: int = 4, **changes: Any) -> StepDistillation:
    settings = {"probability": 1.0, "guidance": (w, w), "gamma": 0.0} | changes
    theta = settings.pop("theta", 0.0)
    each = settings.get("teacher_steps", 2 * steps) // steps
    ideal = Ideal(kind, steps, w if settings["probability"] else 1.0, theta, each).double()
    return StepDistillation(
        ideal, bed.exact(kind), bed.scheduler(kind, set_alpha_to_one=True), bed.NULL, steps=steps, **settings
    )


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_a_perfect_student_has_no_loss(kind: str, probability: float, steps: int) -> None:
    """Vanilla and CFG-aware, down to diffusers' rounding, also in the last step, which ends without noise."""
    assert losses(objective(kind, steps=steps, probability=probability))["distillation"] < 1e-5


@pytest.mark.parametrize("probability", [0.0, 1.0])
@pytest.mark.parametrize(("steps", "teacher_steps"), [(4, 12), (4, 16), (1, 8), (2, 4)])
def test_a_student_learns_all_steps_of_a_slower_teacher(steps: int, teacher_steps: int, probability: float) -> None:
    """Fig. 7c: one step of the perfect student is ``teacher_steps / steps`` of the exact denoiser's."""
    made = objective(steps=steps, probability=probability, teacher_steps=teacher_steps)
    perfect = losses(made)["distillation"]
    assert perfect < 1e-4
    if teacher_steps > 2 * steps:
        made.teacher_steps = 2 * steps
        assert losses(made)["distillation"] > 1000 * perfect


class IdealWithoutText(Ideal):
    """Perfect without a text, too: what it says there is what two unguided steps of the exact denoiser come to."""

    def forward(self, x_t: Tensor, t_b: Tensor, text: Tensor, return_dict: bool) -> tuple[Tensor]:
        null, perfect = (self.at_each_time(x_t, t_b, k * text) for k in (0, 1))
        said = (perfect + (self.w - 1) * null) / self.w
        return (torch.where((text.sum((1, 2)) > 0)[:, None, None, None], said, null),)


@pytest.mark.parametrize("drop", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_share_without_text_is_without_it_in_student_and_teacher(
    drop: float, probability: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perfect in both branches there is no loss; L_cfg is vanilla there, since v(empty) guided by any w is v(empty)."""
    made = objective(probability=probability, drop=drop)
    made.networks["unet"] = IdealWithoutText("v_prediction", 4, 3.0 if probability else 1.0).double()
    assert losses(made)["distillation"] < 1e-5
    seen: list[Tensor] = []
    right = step_distillation.predict_guided

    def record(net: Any, x: Tensor, t: Tensor, text: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.append((text == bed.NULL).all(2).all(1))
        return right(net, x, t, text, *rest)

    monkeypatch.setattr(step_distillation, "predict_guided", record)
    for step in range(4):
        losses(made, step)
    assert torch.cat(seen).double().mean().item() == pytest.approx(drop, abs=0.08)
    text = bed.examples().batch(range(COUNT))["text"].double()
    monkeypatch.setattr(
        step_distillation, "ddim", lambda net, s, x, t, _, *rest: progressive.ddim(net, s, x, t, text, *rest)
    )
    assert (losses(made)["distillation"] > 1e-2) == (drop > 0), "a teacher with the text where its student has none"


@pytest.mark.parametrize("kind", ["v_prediction", "epsilon"])
def test_the_default_is_two_steps_and_dynamic_to_the_last_bit(kind: str) -> None:
    """Against SnapFusion's equations 7 to 11 written out for t, t', t'' in the order that recipes were trained in."""
    made = objective(kind, probability=1.0, gamma=0.2, theta=0.1)
    found, draws = losses(made), Draws(0, 0, 0, COUNT)
    batch = {name: value.double() for name, value in bed.examples().batch(range(COUNT)).items()}
    schedule, x0, text, net = made.schedule, batch["latent"], batch["text"], made.networks["unet"]
    first, times = 2 * draws.integers(0, 4), schedule.trailing(8)
    t, middle, last = (times[first + index] for index in range(3))
    noise = draws.normal(2, 1, 1)
    x_t = schedule.add_noise(x0, noise, t)
    draws.seed()
    w, exact = draws.uniform(3.0, 3.0), bed.exact(kind)
    with torch.no_grad():
        x_later = x_t
        for now, after in ((t, middle), (middle, last)):
            said = progressive.predict_guided(exact, x_later, now, text, bed.NULL, w)[1]
            clean, left = schedule.x0(said, x_later, now), schedule.noise(said, x_later, now)
            x_later = schedule.add_noise(clean, left, after)
        target = progressive.clean_target(schedule, x_t, x_later, t, last)
    conditional, guided = progressive.predict_guided(net, x_t, t, text, bed.NULL, w)
    distillation = x0_loss(schedule, guided, target, x_t, t)
    original = original_loss(schedule, conditional, x0, noise, x_t, t)
    assert torch.equal(found["distillation"], distillation)
    assert torch.equal(found["loss"], distillation + dynamic(0.2, original, distillation))
    said_so = objective(kind, probability=1.0, gamma=0.2, theta=0.1, teacher_steps=8, scaling="dynamic")
    assert torch.equal(losses(said_so)["loss"], found["loss"])


def test_a_constant_weight_takes_the_original_loss_as_it_is() -> None:
    """Fig. 7b: value and gradient of L_dstl + gamma L_ori, whose sizes differ by a factor of more than ten."""
    made = objective(gamma=0.5, theta=0.1, probability=0.0, scaling="constant")
    found, theta = losses(made), made.networks["unet"].theta
    distillation, original = found["distillation"], found["original"]
    assert original > 10 * distillation
    torch.testing.assert_close(found["loss"], distillation + 0.5 * original)
    slopes = [
        torch.autograd.grad(part, theta, retain_graph=True)[0] for part in (found["loss"], distillation, original)
    ]
    torch.testing.assert_close(slopes[0], slopes[1] + 0.5 * slopes[2])


def _second_step_at_t(net: Any, schedule: Any, x: Tensor, times: Any, text: Tensor, null: Tensor, w: Any) -> Tensor:
    for now, start, after in zip((times[0], times[0]), times, times[1:], strict=False):
        said = progressive.predict_guided(net, x, now, text, null, w)[1]
        x = schedule.add_noise(schedule.x0(said, x, start), schedule.noise(said, x, start), after)
    return x


def _target(form: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def clean_target(schedule: NoiseSchedule, x: Tensor, x_later: Tensor, t: Tensor, later: Tensor) -> Tensor:
        (a, s), (a_later, s_later) = schedule.level(t, x), schedule.level(later, x)
        return form(x, x_later, a, s, a_later, s_later)

    return clean_target


def _guided(form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda c, n, w: form(c, n, w.reshape(-1, 1, 1, 1))


def _vanilla_student(net: Any, x: Tensor, t: Tensor, text: Tensor, null: Tensor, w: Any) -> tuple[Tensor, Tensor]:
    said = progressive.predict(net, x, t, text)
    return said, said


def _first_half(schedule: Any, steps: int, draws: Draws, teacher_steps: None) -> tuple[Tensor, ...]:
    times = progressive.student_times(schedule, steps, draws)
    return times[0], times[1], times[1]


FAULTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {
    "second step evaluated at t, not t'": (step_distillation, "ddim", _second_step_at_t),
    "guidance 1 + w": (progressive, "guide", _guided(lambda c, n, w: (1 + w) * c - w * n)),
    "guidance with w for w - 1": (progressive, "guide", _guided(lambda c, n, w: w * c - w * n)),
    "sign of guidance": (progressive, "guide", _guided(lambda c, n, w: w * c + (w - 1) * n)),
    "student not guided": (step_distillation, "predict_guided", _vanilla_student),
    "t'' taken for t'": (step_distillation, "student_times", _first_half),
    "sign of z_t in the target": (
        step_distillation,
        "clean_target",
        _target(lambda x, y, a, s, a2, s2: (y + s2 / s * x) / (a2 - s2 / s * a)),
    ),
    "factor a_t in the target": (
        step_distillation,
        "clean_target",
        _target(lambda x, y, a, s, a2, s2: (y - s2 / s * x) / (a2 - s2 / s)),
    ),
    "factor 1 / s_t in the target": (
        step_distillation,
        "clean_target",
        _target(lambda x, y, a, s, a2, s2: (y - s2 * x) / (a2 - s2 * a)),
    ),
    "teacher's own latent as the target": (step_distillation, "clean_target", lambda *given: given[2]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_gives_the_perfect_student_a_loss(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    assert losses(objective())["distillation"] > 1e-2


def test_the_weight_is_the_truncated_snr() -> None:
    """A student off by d in v is off by s d in x0."""
    schedule, scheduler = NoiseSchedule.from_scheduler(bed.scheduler()), bed.scheduler()
    t = torch.tensor([124, 249, 499, 999])
    x_t, target = (torch.randn(4, 2, 1, 1, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    right = [scheduler.alphas_cumprod[t] ** 0.5, (1 - scheduler.alphas_cumprod[t]) ** 0.5]
    a, s = (level[:, None, None, None] for level in right)
    student = (a * x_t - target) / s + 0.3
    weight = torch.stack([compute_snr(scheduler, t), torch.ones(4)]).max(0).values
    wanted = (weight * (0.3 * right[1]) ** 2).mean()
    torch.testing.assert_close(x0_loss(schedule, student, target, x_t, t), wanted)
    assert weight[0] > 1
    assert weight[-1] == 1


def test_the_original_loss_is_the_error_in_v() -> None:
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 2, 3, 3, generator=generator) for _ in range(2))
    t = torch.tensor([0, 100, 500, 900, 999])
    v = bed.scheduler().get_velocity(x0, noise, t)
    for kind, said in (("v_prediction", v), ("epsilon", noise)):
        schedule = NoiseSchedule.from_scheduler(bed.scheduler(kind))
        x_t = schedule.add_noise(x0, noise, t)
        assert original_loss(schedule, said, x0, noise, x_t, t) < 1e-9
    schedule = NoiseSchedule.from_scheduler(bed.scheduler())
    torch.testing.assert_close(original_loss(schedule, v + 0.5, x0, noise, x_t, t), torch.tensor(0.25))


def test_dynamic_gamma_scales_the_value_and_keeps_the_gradient() -> None:
    x = torch.tensor(3.0, requires_grad=True)
    original, distillation = 5 * x**2, 2 * x
    term = dynamic(0.2, original, distillation)
    assert term.item() == pytest.approx(0.2 * 6)
    (slope,) = torch.autograd.grad(term, x)
    assert slope.item() == pytest.approx(0.2 * 30 * 6 / 45)  # without the stop it would be 0.2 * 2


def test_the_total_is_the_sum_and_one_call_serves_all_terms() -> None:
    made = objective(gamma=0.2, theta=0.1)
    found = losses(made)
    assert found["loss"].item() == pytest.approx(1.2 * found["distillation"].item())
    assert found["original"] > 0
    assert made.networks["unet"].calls == 2 * COUNT
    plain = objective(gamma=0.2, probability=0.0)
    losses(plain)
    assert plain.networks["unet"].calls == COUNT  # no empty text's branch


def test_original_loss_is_of_the_unguided_answer_at_the_same_point(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Tensor] = {}

    def record(schedule: Any, student: Tensor, x0: Tensor, noise: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        seen.update(student=student, x0=x0, noise=noise, x_t=x_t, t=t)
        return original_loss(schedule, student, x0, noise, x_t, t)

    monkeypatch.setattr(step_distillation, "original_loss", record)
    made = objective(gamma=0.2)
    losses(made)
    text = bed.examples().batch(range(COUNT))["text"].double()
    with torch.no_grad():
        said = made.networks["unet"](seen["x_t"], seen["t"], text, return_dict=False)[0]
    torch.testing.assert_close(seen["student"].detach(), said)
    theirs = bed.scheduler().add_noise(seen["x0"], seen["noise"], seen["t"])
    torch.testing.assert_close(seen["x_t"], theirs, rtol=0, atol=1e-6)


def test_guidance_follows_the_papers_convention() -> None:
    conditional, null = torch.rand(3, 2, 1, 1), torch.rand(3, 2, 1, 1)
    made = guide(conditional, null, torch.tensor([1.0, 2.0, 7.5]))
    torch.testing.assert_close(made[0], conditional[0])
    torch.testing.assert_close(made[1], 2 * conditional[1] - null[1])
    torch.testing.assert_close(made[2], 7.5 * conditional[2] - 6.5 * null[2])


def test_guidance_is_chosen_by_iteration_and_w_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor | None] = []

    def record(net: Any, x: Tensor, t: Tensor, text: Tensor, null: Tensor, w: Tensor | None) -> tuple[Tensor, Tensor]:
        drawn.append(w)
        return x, x

    monkeypatch.setattr(step_distillation, "predict_guided", record)
    made = objective(probability=0.1, guidance=(2.0, 14.0))
    monkeypatch.setattr(step_distillation, "ddim", lambda net, schedule, x, *given: x)
    for step in range(400):
        losses(made, step)
    aware = [w for w in drawn if w is not None]
    assert len(aware) / 400 == pytest.approx(0.1, abs=0.05)
    w = torch.cat(aware)
    assert w.min() > 2
    assert w.max() < 14
    assert w.mean() == pytest.approx(8, abs=0.4)
    assert len(w.unique()) > 0.99 * len(w)


def test_students_start_where_their_sampler_will() -> None:
    schedule = NoiseSchedule.from_scheduler(bed.scheduler())
    times = torch.stack(progressive.student_times(schedule, 8, Draws(0, 0, 0, 1000)), dim=1)
    sampler = bed.scheduler()
    sampler.set_timesteps(8)
    assert times[:, 0].unique().tolist() == sampler.timesteps.tolist()[::-1]
    ends = [*sampler.timesteps.tolist()[1:], -1]
    sampler.set_timesteps(16)
    middles = sampler.timesteps.tolist()[1::2]
    starts = sampler.timesteps.tolist()[::2]
    rows = set(map(tuple, times.tolist()))
    assert rows == set(zip(starts, middles, ends, strict=True))


def test_a_slower_teachers_times_divide_the_students() -> None:
    """8 of 64: the student's own times, and between them the eight that a scheduler of 64 steps visits."""
    schedule, sampler = NoiseSchedule.from_scheduler(bed.scheduler()), bed.scheduler()
    times = torch.stack(progressive.student_times(schedule, 8, Draws(0, 0, 0, 1000), 64), dim=1)
    assert times.shape == (1000, 9)
    sampler.set_timesteps(64)
    visited = [*sampler.timesteps.tolist(), -1]
    assert set(map(tuple, times.tolist())) == {tuple(visited[first : first + 9]) for first in range(0, 64, 8)}
    sampler.set_timesteps(8)
    assert times[:, 0].unique().tolist() == sampler.timesteps.tolist()[::-1]


def test_the_teacher_gets_no_gradient() -> None:
    teacher = testbed.ToyDenoiser(4)
    student = testbed.ToyDenoiser(4)
    made = StepDistillation(student, teacher, bed.scheduler(), bed.NULL, steps=4, probability=1.0)
    made.losses("unet", bed.examples().batch(range(8)), Draws(0, 0, 0, 8))["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in student.parameters())


def test_what_is_not_allowed_is_said() -> None:
    ranges = ({"guidance": (0.5, 2.0)}, {"guidance": (3.0, 2.0)})
    for bad in ({"probability": 1.1}, *ranges, {"gamma": -1.0}, {"drop": 1.1}):
        with pytest.raises(BadInput, match="must be"):
            objective(**bad)
    with pytest.raises(BadInput, match="allowed: dynamic, constant"):
        objective(scaling="dynamical")
    for taught in (4, 6, 13, 1004):
        made = objective()
        made.teacher_steps = taught
        with pytest.raises(BadInput, match="it must have 8, 12 and so on to 1000"):
            losses(made)
    for steps in (0, 501):
        made = StepDistillation(nn.Identity(), nn.Identity(), bed.scheduler(), bed.NULL, steps=steps)
        with pytest.raises(BadInput, match="it must have 1 to 500"):
            losses(made)


@pytest.mark.slow
def test_a_distilled_student_goes_where_its_teacher_goes() -> None:
    """Trained on the ring, 4 steps guided by 3 end within 0.25 of the exact teacher's 8 steps from the same noise.

    The teacher itself in 4 steps ends 0.43 away.
    """
    student = bed.trained()
    made = StepDistillation(
        student, bed.exact(), bed.scheduler(), bed.NULL, steps=4, probability=1.0, guidance=(2.0, 4.0), gamma=0.05
    )
    net = bed.fit(made, 600)["unet"]
    noise, text, _ = bed.questions()
    goal = testbed.sample(bed.exact(), bed.scheduler(), noise, text, 8, guidance=3.0)
    short = testbed.sample(bed.exact(), bed.scheduler(), noise, text, 4, guidance=3.0)
    reached = testbed.sample(net, bed.scheduler(), noise, text, 4, guidance=3.0)
    assert testbed.pair_distance(short, goal) > 0.4
    assert testbed.pair_distance(reached, goal) < 0.25
