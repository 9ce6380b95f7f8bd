"""Examples held in memory, and a bare loop for tests of objectives alone: AdamW, no checkpoint, no split."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mdrepro.data.examples import Batch
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Objective, Phase


class Held:
    """Examples whose tensors and lists are given by key."""

    fingerprint = "held"

    def __init__(self, **columns: Any) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def batch(self, indices: Sequence[int]) -> Batch:
        taken = list(indices)
        return {
            key: column[taken] if isinstance(column, Tensor) else [column[i] for i in taken]
            for key, column in self.columns.items()
        }


def freeze(objective: Objective) -> None:
    """What the loop does to networks that are not trained."""
    for network in objective.frozen.values():
        network.eval().requires_grad_(False)


def choose(objective: Objective, phase: Phase) -> None:
    """What the loop does before a phase: only its own networks get gradients."""
    for name, network in objective.networks.items():
        network.requires_grad_(name in phase.trains)


def fit(objective: Objective, examples: Any, steps: int, rate: float = 3e-3) -> list[dict[str, float]]:
    """Train on all examples at once; returns the numbers of each step, phases prefixed from the second on."""
    freeze(objective)
    optimisers = {
        phase.name: torch.optim.AdamW(
            [p for name in phase.trains for p in objective.networks[name].parameters()], lr=rate
        )
        for phase in objective.phases
    }
    batch = examples.batch(range(len(examples)))
    told = []
    for step in range(steps):
        numbers = {}
        for place, phase in enumerate(objective.phases):
            choose(objective, phase)
            found = objective.losses(phase.name, batch, Draws(0, step, 0, len(examples), stream=phase.name))
            for network in objective.networks.values():
                network.zero_grad()
            found["loss"].backward()
            optimisers[phase.name].step()
            numbers |= {f"{phase.name} {name}" if place else name: value.item() for name, value in found.items()}
        told.append(numbers)
    return told
