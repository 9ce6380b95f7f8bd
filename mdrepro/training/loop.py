"""The one training loop."""

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from mdrepro.errors import BadInput, unknown
from mdrepro.training import muon
from mdrepro.training.draws import Draws
from mdrepro.training.objective import Examples, Objective

PRECISIONS = ("fp32", "bf16")
DECAYS = ("constant", "cosine", "linear")
OPTIMISERS = ("adamw", "muon")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a run is trained.

    Args:
        steps: optimiser steps.
        batch: samples of one step, over all processes and accumulated micro-batches together.
        accumulation: micro-batches of one step on each process.
        learning_rate: highest rate; ``learning_rates`` overrides it by the phase's name.
        optimiser: "adamw", or "muon" (`mdrepro.training.muon`), which has betas of its own.
        betas: of AdamW; ``phase_betas`` overrides them by the phase's name.
        weight_decay: decoupled.
        clip: greatest norm of a phase's gradient; 0 does not clip.
        warmup: steps in which the rate rises linearly.
        decay: after them: "constant", or to 0 at the end by a half "cosine" or "linear".
        ema: decay of the exponential average, min(ema, (1 + n) / (10 + n)) at step n from 0; 0 keeps no average.
        precision: "fp32", or "bf16" (autocast).
        seed: of the order of the data and of all draws.
        threads: CPU threads of torch; 0 leaves them. Another number may give other bits.
        checkpoint_every, log_every: steps.

    Raises:
        BadInput: a value outside of what is allowed.
    """

    steps: int
    batch: int
    accumulation: int = 1
    learning_rate: float = 1e-4
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    optimiser: str = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    phase_betas: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 0
    decay: str = "constant"
    ema: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    threads: int = 0
    checkpoint_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("precision", self.precision, PRECISIONS),
            ("decay", self.decay, DECAYS),
            ("optimiser", self.optimiser, OPTIMISERS),
        ):
            if value not in allowed:
                raise unknown(what, value, allowed)
        for name in ("steps", "batch", "accumulation", "checkpoint_every", "log_every"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} {getattr(self, name)}: allowed are numbers from 1")
        for name in ("warmup", "threads", "clip", "weight_decay"):
            if getattr(self, name) < 0:
                raise BadInput(f"{name} {getattr(self, name)}: allowed are numbers from 0")
        for rate in (self.learning_rate, *self.learning_rates.values()):
            if rate <= 0:
                raise BadInput(f"learning rate {rate}: allowed are positive numbers")
        if not 0 <= self.ema < 1:
            raise BadInput(f"ema {self.ema}: allowed is a decay from 0 (no average) to below 1")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to.

    Args:
        networks: by name, unwrapped, in eval mode; the averages where they are on.
        losses: the curve: a row for each logged step, with ``step`` (steps done), and ``<phase>/<name>``: the mean of that
            loss since the row before, over all processes.
        seconds, images_per_second: of the whole training, of all its runs together.
        steps: done.
        finished: False where time ran out before the last step.
    """

    networks: dict[str, nn.Module]
    losses: list[dict[str, float]]
    seconds: float
    images_per_second: float
    steps: int
    finished: bool


def train(
    objective: Objective,
    examples: Examples,
    config: LoopConfig,
    folder: Path,
    *,
    resume: bool = True,
    max_seconds: float | None = None,
) -> Outcome:
    """Train the objective's networks on the examples (first version: one process, no checkpoints)."""
    optimisers = {}
    for phase in objective.phases:
        parameters = [p for name in phase.trains for p in objective.networks[name].parameters() if p.requires_grad]
        rate = config.learning_rates.get(phase.name, config.learning_rate)
        betas = config.phase_betas.get(phase.name, config.betas)
        optimisers[phase.name] = (
            torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=config.weight_decay)
            if config.optimiser == "adamw"
            else muon.Muon(parameters, lr=rate, weight_decay=config.weight_decay)
        )
    if config.ema:
        objective.ema.update(
            {name: copy.deepcopy(net).eval().requires_grad_(False) for name, net in objective.networks.items()}
        )
    losses: list[dict[str, float]] = []
    began = time.monotonic()
    for net in objective.networks.values():
        net.train()
    for step in range(config.steps):
        order = torch.Generator().manual_seed(config.seed + step)
        batch = examples.batch(torch.randint(len(examples), (config.batch,), generator=order).tolist())
        row: dict[str, float] = {"step": step + 1}
        for phase in objective.phases:
            if step % phase.every:
                continue
            found = objective.losses(phase.name, batch, Draws(config.seed, step, 0, config.batch, stream=phase.name))
            optimisers[phase.name].zero_grad()
            found["loss"].backward()  # type: ignore[no-untyped-call]
            optimisers[phase.name].step()
            row |= {f"{phase.name}/{name}": value.item() for name, value in found.items()}
        losses.append(row)
        decay = min(config.ema, (1 + step) / (10 + step))
        for name, mean in objective.ema.items():
            with torch.no_grad():
                for a, p in zip(mean.parameters(), objective.networks[name].parameters(), strict=True):
                    a.lerp_(p, 1 - decay)
    seconds = time.monotonic() - began
    networks = {name: net.eval() for name, net in (objective.ema or objective.networks).items()}
    return Outcome(
        networks=networks,
        losses=losses,
        seconds=seconds,
        images_per_second=config.steps * config.batch / seconds,
        steps=config.steps,
        finished=True,
    )
