"""Small objectives and data for the training loop, and a way to train them in a process of their own.

python -m tests.support.toys '[{"toy": "denoiser", "folder": ..., "config": {...}}, ...]'
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mdrepro.training.engine.loop import LoopConfig, Outcome, train
from mdrepro.training.engine.objective import Phase

torch.set_num_threads(1)


class Numbers:
    """``count`` small pictures (2, 4, 4); it remembers which were asked for."""

    fingerprint = "numbers"

    def __init__(self, count: int = 37) -> None:
        self.latent = torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(5))
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.latent)

    def batch(self, indices):
        self.asked.append(list(indices))
        return {"latent": self.latent[indices], "index": list(indices)}


def seed(number: int) -> None:
    """Other initial weights on each process: the loop has to see to it that all begin with the first one's."""
    torch.manual_seed(number + 100 * int(os.environ.get("RANK", 0)))


class Toy:
    """What objectives have."""

    def __init__(self, **networks: nn.Module) -> None:
        self.networks: dict[str, nn.Module] = networks
        self.frozen: dict[str, nn.Module] = {}
        self.ema: dict[str, nn.Module] = {}


class Denoiser(Toy):
    """Noise to be told from the data: convolutions in channels_last, and where asked for, dropout."""

    phases = (Phase("unet", ("unet",)),)

    def __init__(self, dropout: float = 0.2, at_step: Any = None) -> None:
        seed(0)
        net = nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.GroupNorm(2, 6),
            nn.Conv2d(6, 2, 3, padding=1),
        )
        super().__init__(unet=net.to(memory_format=torch.channels_last))
        self.at_step = at_step

    def losses(self, phase, batch, draws):
        if self.at_step:
            self.at_step(self, draws.step)
        x0, noise = batch["latent"], draws.normal(2, 4, 4)
        level = draws.uniform()[:, None, None, None]
        prediction = self.networks["unet"](x0 * (1 - level) + noise * level)
        return {"loss": (prediction - noise).square().mean(), "error": (prediction - noise).abs().mean()}


class Plain(Denoiser):
    """Without dropout, whose masks depend on how the batch is split."""

    def __init__(self) -> None:
        super().__init__(dropout=0.0)


class Gan(Toy):
    """A generator of points, and a discriminator that is called twice in its phase and trained in every second step."""

    phases = (Phase("discriminator", ("discriminator",), every=2), Phase("generator", ("generator", "scale")))

    def __init__(self) -> None:
        seed(1)
        super().__init__(
            generator=nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Linear(16, 32)),
            scale=nn.Linear(32, 32),
            discriminator=nn.Sequential(nn.Linear(32, 16), nn.SiLU(), nn.Linear(16, 1)),
        )

    def losses(self, phase, batch, draws):
        fake = self.networks["scale"](self.networks["generator"](draws.normal(4)))
        judge = self.networks["discriminator"]
        if phase == "generator":
            return {"loss": nn.functional.softplus(-judge(fake)).mean()}
        real = judge(batch["latent"].flatten(1))
        fake = judge(fake.detach())
        return {"loss": (nn.functional.softplus(-real) + nn.functional.softplus(fake)).mean()}


class Skipper(Toy):
    """Of two layers, one is skipped in every other step: it gets no gradient."""

    phases = (Phase("net", ("net",), partial=True),)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x, skip):
            x = self.first(x)
            return x if skip else self.second(x)

    def __init__(self) -> None:
        seed(2)
        super().__init__(net=Skipper.Net())

    def losses(self, phase, batch, draws):
        x = batch["latent"].flatten(1)
        return {"loss": (self.networks["net"](x + draws.normal(32), draws.step % 2 == 0) - x).square().mean()}


class Consistency(Plain):
    """The target comes from the average."""

    def losses(self, phase, batch, draws):
        x = batch["latent"]
        with torch.no_grad():
            target = self.ema["unet"](x)
        loss = (self.networks["unet"](x + draws.normal(2, 4, 4)) - target - x).square().mean()
        return {"loss": loss}


TOYS = {toy.__name__.lower(): toy for toy in (Denoiser, Plain, Gan, Skipper, Consistency)}


def config(**changes: Any) -> LoopConfig:
    settings = {
        "steps": 8,
        "batch": 8,
        "learning_rate": 1e-2,
        "clip": 0.5,
        "ema": 0.9,
        "checkpoint_every": 3,
        "log_every": 1,
    }
    return LoopConfig(**(settings | changes))


def weights(networks: dict[str, nn.Module]) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for net in networks.values() for p in net.state_dict().values()])


def run(
    toy: str, folder: Path, max_seconds: float | None = None, wait_at: int | None = None, **settings: Any
) -> Outcome:
    """Train it; from the step ``wait_at`` on it waits to be killed."""
    objective = TOYS[toy]()
    if wait_at is not None:
        objective.at_step = lambda _, step: threading.Event().wait() if step >= wait_at else None
    return train(objective, Numbers(), config(**settings), folder, max_seconds=max_seconds)


if __name__ == "__main__":
    for job in json.loads(sys.argv[1]):
        outcome = run(job["toy"], Path(job["folder"]), wait_at=job.get("wait_at"), **job["config"])
        total = weights(outcome.networks).double().sum().item()
        print(json.dumps({"steps": outcome.steps, "sum": total}), flush=True)
