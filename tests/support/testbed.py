"""A test bed with known answers: Gaussian mixtures in the plane, on which every objective trains in seconds.

Points are latents (b, 2, 1, 1), conditions are texts of one token. The noised mixture is a mixture again, so the best
denoiser is a closed formula (`ExactDenoiser`), which also serves as a teacher without error.
"""

import copy
import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.data.examples import Batch
from mdrepro.diffusion.noise import NoiseSchedule

TIME_WIDTH = 32


class Mixture:
    """Round Gaussians of one size; a condition chooses some of them, all alike likely.

    Args:
        means: (k, 2).
        std: of each Gaussian.
        modes: for each condition, the modes that it chooses.
    """

    def __init__(self, means: Tensor, std: float, modes: Sequence[Sequence[int]]) -> None:
        self.means, self.std = means, std
        self.chosen = torch.zeros(len(modes), len(means))
        for row, names in zip(self.chosen, modes, strict=True):
            row[list(names)] = 1 / len(names)

    @property
    def null_text(self) -> Tensor:
        """The empty text, (1, conditions): all modes."""
        return torch.zeros(1, len(self.chosen))

    def text(self, labels: Tensor) -> Tensor:
        """Texts of conditions 0, 1, ...: one-hot, (b, 1, conditions)."""
        return F.one_hot(labels, len(self.chosen)).float()[:, None]

    def weights(self, text_btc: Tensor) -> Tensor:
        """Probability of each mode given the text, (b, k)."""
        weights_bk = text_btc[:, 0] @ self.chosen.to(text_btc)
        return torch.where(weights_bk.sum(1, keepdim=True) > 0, weights_bk, 1 / len(self.means))

    def sample(self, text_btc: Tensor, generator: torch.Generator) -> Tensor:
        """A point for each text, (b, 2, 1, 1)."""
        modes = torch.multinomial(self.weights(text_btc), 1, generator=generator)[:, 0]
        points = self.means[modes] + self.std * torch.randn(len(modes), 2, generator=generator)
        return points[:, :, None, None]

    def denoise(self, x_t: Tensor, signal: Tensor, spread: Tensor, text_btc: Tensor) -> Tensor:
        """E[x0 | x_t, text] where x_t = signal x0 + spread e; all (b, 2, 1, 1) or (b, 1, 1, 1).

        The mixture's modes become N(a mu, a^2 std^2 + s^2), and inside one x0 is linear in x_t.
        """
        x_b12, a_b11 = x_t[:, None, :, 0, 0], signal[..., 0]
        means = self.means.to(x_t)
        variance_b11 = a_b11**2 * self.std**2 + spread[..., 0] ** 2
        away_bk2 = x_b12 - a_b11 * means
        log_bk = self.weights(text_btc).to(x_t).log() - away_bk2.square().sum(2) / (2 * variance_b11[..., 0])
        clean_bk2 = means + a_b11 * self.std**2 / variance_b11 * away_bk2
        return (log_bk.softmax(1)[..., None] * clean_bk2).sum(1)[:, :, None, None]


def ring(modes: int = 8, std: float = 0.15, conditions: int = 4) -> Mixture:
    """Modes evenly on a circle of variance 1; condition c chooses every ``conditions``-th, from the c-th on."""
    angles = 2 * math.pi * torch.arange(modes) / modes
    means = math.sqrt(2) * torch.stack([angles.cos(), angles.sin()], dim=1)
    return Mixture(means, std, [range(condition, modes, conditions) for condition in range(conditions)])


class MixtureExamples:
    """Points of a mixture with their texts, as training data.

    Args:
        mixture: where they come from.
        count: how many.
        seed: of the points.
    """

    def __init__(self, mixture: Mixture, count: int = 20_000, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(len(mixture.chosen), (count,), generator=generator)
        self.text = mixture.text(labels)
        self.latent = mixture.sample(self.text, generator)
        self.fingerprint = hashlib.sha256(self.latent.numpy().tobytes() + self.text.numpy().tobytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.latent)

    def batch(self, indices: Sequence[int]) -> Batch:
        """``latent`` and ``text``."""
        rows = torch.as_tensor(indices)
        return {"latent": self.latent[rows], "text": self.text[rows]}


class ExactDenoiser(nn.Module):
    """The mean squared error's minimiser on a mixture, called as a denoiser; no parameters.

    Args:
        mixture: of the data.
        schedule: noise levels, and what is predicted.
    """

    def __init__(self, mixture: Mixture, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.mixture, self.schedule = mixture, schedule

    def forward(self, x_t: Tensor, t: Tensor | float, text_btc: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        signal, spread = self.schedule.level(torch.as_tensor(t, device=x_t.device).expand(len(x_t)), x_t)
        clean = self.mixture.denoise(x_t, signal, spread, text_btc)
        noise = (x_t - signal * clean) / spread
        said = {"sample": clean, "epsilon": noise, "v_prediction": signal * noise - spread * clean}
        return (said[self.schedule.prediction_type],)


class ToyDenoiser(nn.Module):
    """A perceptron called as a denoiser.

    Args:
        conditions: width of the text.
        width, layers: of the perceptron.
    """

    def __init__(self, conditions: int, width: int = 128, layers: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(2 + TIME_WIDTH + conditions, width)
        self.inner = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.last = nn.Linear(width, 2)

    def features(self, x_t: Tensor, t: Tensor | float, text_btc: Tensor) -> Tensor:
        """What the last layer sees, (b, width)."""
        time_b = torch.as_tensor(t, device=x_t.device).expand(len(x_t))
        time_bt = get_timestep_embedding(time_b, TIME_WIDTH, max_period=1000)
        h = self.first(torch.cat([x_t[:, :, 0, 0], time_bt.to(x_t), text_btc[:, 0]], dim=1))
        for layer in self.inner:
            h = h + layer(F.silu(h))
        return F.silu(h)

    def forward(self, x_t: Tensor, t: Tensor | float, text_btc: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (self.last(self.features(x_t, t, text_btc))[:, :, None, None],)


class ToyDiscriminator(nn.Module):
    """As the discriminator of MobileDiffusion: the trained denoiser with a last layer to one logit, zero at first."""

    def __init__(self, denoiser: ToyDenoiser) -> None:
        super().__init__()
        self.body = copy.deepcopy(denoiser)
        self.head = nn.Linear(denoiser.last.in_features, 1)
        self.body.last = nn.Identity()  # type: ignore[assignment]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x_t: Tensor, t: Tensor | float, text_btc: Tensor) -> Tensor:
        return self.head(self.body.features(x_t, t, text_btc))[:, :, None, None]


@torch.no_grad()
def sample(
    net: nn.Module,
    scheduler: Any,
    noise: Tensor,
    text_btc: Tensor,
    steps: int,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Points made by a denoiser with a diffusers scheduler.

    Args:
        net: the denoiser.
        scheduler: a DDIMScheduler, RenoisingScheduler, LCMScheduler ...
        noise, text_btc: (b, 2, 1, 1) and (b, 1, conditions).
        steps: of the scheduler.
        guidance: w in w v(text) - (w - 1) v(empty).
        generator: of the noise that a scheduler adds; None for those that add none.
    """
    scheduler.set_timesteps(steps)
    extra = {} if generator is None else {"generator": generator}
    x_t = noise
    for t in scheduler.timesteps:
        said = net(x_t, t, text_btc, return_dict=False)[0]
        if guidance != 1:
            null = net(x_t, t, torch.zeros_like(text_btc), return_dict=False)[0]
            said = null + guidance * (said - null)
        x_t = scheduler.step(said, t, x_t, return_dict=False, **extra)[0]
    return x_t


def sliced_wasserstein(x: Tensor, y: Tensor, directions: int = 64) -> float:
    """Sliced 2-Wasserstein distance of two equally large sets of points (b, 2, 1, 1), directions evenly around.

    On a line the best transport is in order of size.
    """
    angles = math.pi * torch.arange(directions) / directions
    onto = torch.stack([angles.cos(), angles.sin()])
    on_lines = [(points[:, :, 0, 0] @ onto).sort(dim=0).values for points in (x, y)]
    return float((on_lines[0] - on_lines[1]).square().mean().sqrt())


def mode_shares(x: Tensor, mixture: Mixture, within: float = 3.0) -> Tensor:
    """Share of the points that lie within so many standard deviations of each mode, (k,)."""
    away_bk = torch.cdist(x[:, :, 0, 0], mixture.means)
    return (away_bk < within * mixture.std).float().mean(0)


def pair_distance(x: Tensor, y: Tensor) -> float:
    """Root mean squared distance of points that belong together."""
    return float((x - y).square().sum(1).mean().sqrt())
