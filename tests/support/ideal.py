"""A perfect student of distillation by exact teachers, and the losses of an objective on the ring."""

import torch
from torch import Tensor, nn

from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Objective
from tests.support import bed

COUNT = 64


class Ideal(nn.Module):
    """What a perfect student of ``steps`` steps says: from it diffusers' DDIM goes in one step where it goes in two, or
    ``each``, from the exact denoiser with guidance w. Since a step is linear in what is said, that is solved for.

    Said without a text: the exact answer; with one: such that guidance by w leads to the perfect answer. ``theta`` is
    added to the conditional answer.
    """

    def __init__(self, kind: str, steps: int, w: float = 1.0, theta: float = 0.0, each: int = 2) -> None:
        super().__init__()
        self.exact, self.steps, self.w, self.each = bed.exact(kind), steps, w, each
        self.theta = nn.Parameter(torch.tensor(float(theta)))
        self.one, self.two = bed.scheduler(kind), bed.scheduler(kind)
        self.one.set_timesteps(steps)
        self.two.set_timesteps(each * steps)
        self.calls = 0

    def perfect(self, x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        first = int((self.two.timesteps == t).nonzero())
        goal = x
        for now in self.two.timesteps[first : first + self.each]:
            said, null = (self.exact(goal, now, given)[0] for given in (text, torch.zeros_like(text)))
            goal = self.two.step(self.w * said + (1 - self.w) * null, now, goal).prev_sample
        zero, one = (self.one.step(torch.full_like(x, value), t, x).prev_sample for value in (0.0, 1.0))
        return (goal - zero) / (one - zero)

    def at_each_time(self, x_t: Tensor, t_b: Tensor, text: Tensor) -> Tensor:
        """The perfect answers of a batch: `perfect` takes samples of one time."""
        said = torch.empty_like(x_t)
        for t in t_b.unique():
            said[t_b == t] = self.perfect(x_t[t_b == t], t, text[t_b == t])
        return said

    def forward(self, x_t: Tensor, t_b: Tensor, text: Tensor, return_dict: bool) -> tuple[Tensor]:
        self.calls += len(x_t)
        null = self.exact(x_t, t_b, torch.zeros_like(text))[0]
        said = (self.at_each_time(x_t, t_b, text) + (self.w - 1) * null) / self.w + self.theta
        return (torch.where((text.sum((1, 2)) > 0)[:, None, None, None], said, null),)


def losses(objective: Objective, step: int = 0) -> dict[str, Tensor]:
    batch = bed.examples().batch(range(COUNT))
    return objective.losses("unet", {name: value.double() for name, value in batch.items()}, Draws(0, step, 0, COUNT))
