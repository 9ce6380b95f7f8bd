"""The diffusion objective: exact values, its minimiser, and what it learns on the ring."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.diffusion.noise import PREDICTIONS, NoiseSchedule
from mdrepro.training.engine.draws import Draws
from mdrepro.training.objectives import diffusion
from mdrepro.training.objectives.diffusion import Diffusion, diffusion_loss, drop_text, min_snr_weight
from tests.support import bed, testbed


class Perturbed(nn.Module):
    """The exact denoiser plus a little of x_t and of its own answer: at the loss's minimum where both are 0."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.exact, self.theta = bed.exact(kind), nn.Parameter(torch.zeros(2))
        self.seen: dict[str, Tensor] = {}

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.seen = {"x_t": x_t, "t": t, "text": text}
        right = self.exact(x_t, t, text)[0]
        return (right + self.theta[0] * x_t + self.theta[1] * right,)


def slopes(kind: str, min_snr: float | None = None, batches: int = 40) -> Tensor:
    """The loss's two slopes at the exact denoiser, in standard errors of their mean."""
    net = Perturbed(kind)
    objective = Diffusion(net, bed.scheduler(kind), bed.NULL, drop=0.2, min_snr=min_snr)
    found = []
    for step in range(batches):
        batch = bed.examples().batch(range(400 * step, 400 * (step + 1)))
        loss = objective.losses("unet", batch, Draws(0, step, 0, 400))["loss"]
        found.append(torch.autograd.grad(loss, net.theta)[0])
    slope = torch.stack(found)
    return slope.mean(0) / (slope.std(0) / batches**0.5)


@pytest.mark.parametrize("min_snr", [None, 5.0])
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_the_exact_denoiser_is_the_minimum(kind: str, min_snr: float | None) -> None:
    assert slopes(kind, min_snr).abs().max() < 4


def _at(change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    right = NoiseSchedule.target
    return lambda self, x0, noise, t_b: right(self, x0, noise, change(t_b))


FAULTS: dict[str, tuple[Any, str, Callable[..., Tensor]]] = {
    "sign of x0 in v": (NoiseSchedule, "target", lambda s, x, e, t: s.level(t, x)[0] * e + s.level(t, x)[1] * x),
    "factor of the noise in v": (NoiseSchedule, "target", lambda s, x, e, t: e - s.level(t, x)[1] * x),
    "factors exchanged in v": (NoiseSchedule, "target", lambda s, x, e, t: s.level(t, x)[1] * e - s.level(t, x)[0] * x),
    "target of another time": (NoiseSchedule, "target", _at(lambda t: (t - 100).clamp(min=0))),
    "factor of x0 in the noising": (NoiseSchedule, "add_noise", lambda s, x, e, t: x + s.level(t, x)[1] * e),
    "variance for deviation": (NoiseSchedule, "add_noise", lambda s, x, e, t: _squared(s, x, e, t)),
    "no text is dropped from what is seen": (diffusion, "drop_text", lambda text, null, dropped: text.roll(1, 0)),
}


def _squared(schedule: NoiseSchedule, x0: Tensor, noise: Tensor, t_b: Tensor) -> Tensor:
    signal, spread = schedule.level(t_b, x0)
    return signal * x0 + spread**2 * noise


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_moves_the_minimum(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    assert slopes("v_prediction").abs().max() > 10


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_min_snr_weighs_as_diffusers_scripts_do(kind: str) -> None:
    schedule, t = NoiseSchedule.from_scheduler(bed.scheduler(kind)), torch.arange(0, 1000, 37)
    snr = compute_snr(bed.scheduler(), t)
    least = torch.stack([snr, torch.full_like(snr, 5.0)], dim=1).min(dim=1).values
    wanted = {"epsilon": least / snr, "v_prediction": least / (snr + 1), "sample": least}[kind]
    torch.testing.assert_close(min_snr_weight(schedule, t, 5.0), wanted, rtol=1e-4, atol=0)


def test_the_loss_of_a_network_that_says_nothing_is_the_size_of_v() -> None:
    """And, weighted, the mean of weight times size; here with one time only."""

    class Nothing(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor, text: Tensor, return_dict: bool) -> tuple[Tensor]:
            return (torch.zeros_like(x_t),)

    schedule, t = NoiseSchedule.from_scheduler(bed.scheduler()), torch.full((8,), 700)
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(8, 2, 3, 3, generator=generator) for _ in range(2))
    size = bed.scheduler().get_velocity(x0, noise, t).square().mean()
    loss = diffusion_loss(Nothing(), schedule, x0, noise, t, torch.zeros(8, 1, 4))
    torch.testing.assert_close(loss, size)
    snr = compute_snr(bed.scheduler(), t)[0]
    weighted = diffusion_loss(Nothing(), schedule, x0, noise, t, torch.zeros(8, 1, 4), min_snr=0.01)
    torch.testing.assert_close(weighted, size * 0.01 / (snr + 1))


def test_what_the_network_sees() -> None:
    net = Perturbed("v_prediction")
    objective = Diffusion(net, bed.scheduler(), torch.full((1, 4), 7.0), drop=0.3)
    batch = bed.examples().batch(range(10_000))
    objective.losses("unet", batch, Draws(0, 0, 0, 10_000))
    dropped = (net.seen["text"] == 7).flatten(1).all(1)
    assert dropped.float().mean() == pytest.approx(0.3, abs=0.02)
    assert torch.equal(net.seen["text"][~dropped], batch["text"][~dropped])
    t = net.seen["t"]
    assert (t.min(), t.max()) == (0, 999)
    assert t.float().mean() == pytest.approx(499.5, abs=10)
    signal, spread = objective.schedule.level(t, batch["latent"])
    noise = (net.seen["x_t"] - signal * batch["latent"]) / spread
    assert noise.mean() == pytest.approx(0, abs=0.03)
    assert noise.std() == pytest.approx(1, abs=0.03)


def test_dropped_texts_are_the_given_one() -> None:
    text, null = torch.rand(3, 2, 4), torch.rand(2, 4)
    made = drop_text(text, null.double(), torch.tensor([False, True, False]))
    assert torch.equal(made, torch.stack([text[0], null, text[2]]))


def test_what_is_not_allowed_is_said() -> None:
    for bad in ({"drop": 1.5}, {"drop": -0.1}, {"min_snr": 0.0}):
        with pytest.raises(BadInput, match="must be"):
            Diffusion(nn.Identity(), bed.scheduler(), bed.NULL, **bad)


def test_it_learns_the_ring() -> None:
    """v within 0.025 of the exact one (of which 0.69 in the mean cannot be known), with and without text; 50 steps."""
    net, exact = bed.trained(), bed.exact()
    noise, text, truth = bed.questions()
    t = torch.randint(1000, (len(text),), generator=torch.Generator().manual_seed(2))
    x_t = exact.schedule.add_noise(truth, noise, t)
    with torch.no_grad():
        for given in (text, torch.zeros_like(text)):
            error = (net(x_t, t, given)[0] - exact(x_t, t, given)[0]).square().mean()
            assert error < 0.025, error
    made = testbed.sample(net, bed.scheduler(), noise, text, 50)
    assert bed.right(made, text) > 0.9
    assert testbed.mode_shares(made, bed.RING).min() > 0.85 / 8
    assert testbed.sliced_wasserstein(made, truth) < 0.1
