"""How a run is trained. Importing this module imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from mdrepro.core.errors import BadInput, check

PRECISIONS = ("fp32", "bf16")
OPTIMISERS = ("adamw", "muon")
DECAYS = ("constant", "cosine", "linear")


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of a run; with objective and examples they determine it. Raises BadInput for other values.

    Args:
        steps: optimiser steps.
        batch: samples of one step, over all processes and micro-batches together.
        accumulation: micro-batches of one step on each process.
        learning_rate: highest rate; ``learning_rates`` overrides it by the phase's name.
        optimiser: "adamw", or "muon" (`mdrepro.training.engine.muon`), which has betas of its own.
        betas: of AdamW; ``phase_betas`` overrides them by the phase's name.
        weight_decay: decoupled.
        clip: greatest norm of a phase's gradient; 0 does not clip.
        warmup: steps in which the rate rises linearly.
        decay: after them: "constant", or to 0 at the end by a half "cosine" or "linear".
        ema: decay of the exponential average, min(ema, (1 + n) / (10 + n)) at step n from 0; 0 keeps no average.
        precision: "fp32", or "bf16" (autocast; weights stay fp32).
        seed: of the order of the data and of all draws.
        threads: CPU threads of torch; 0 leaves them. Another number may give other bits.
        checkpoint_every, log_every: steps.
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
        check("precision", self.precision, PRECISIONS)
        check("decay", self.decay, DECAYS)
        check("optimiser", self.optimiser, OPTIMISERS)
        from_one = ("steps", "batch", "accumulation", "checkpoint_every", "log_every")
        for name in (*from_one, "warmup", "threads", "clip", "weight_decay", "seed"):
            least = int(name in from_one)
            if not getattr(self, name) >= least:  # nor NaN
                raise BadInput(f"{name} {getattr(self, name)}: it must be a number from {least}")
        for rate in (self.learning_rate, *self.learning_rates.values()):
            if not 0 < rate < float("inf"):
                raise BadInput(f"learning rate {rate}: it must be a positive number")
        for betas in (self.betas, *self.phase_betas.values()):
            if not all(0 <= beta < 1 for beta in betas):
                raise BadInput(f"betas {betas}: they must be numbers from 0 to below 1")
        if not 0 <= self.ema < 1:
            raise BadInput(f"ema {self.ema}: it must be a decay from 0 (no average) to below 1")

    def rate(self, phase: str, step: int) -> float:
        """The learning rate of a phase at a step from 0. As a share of the highest it is

        (step + 1) / warmup in the first ``warmup`` steps; then, with u the share of the other steps that is done,
        1 ("constant"), (1 + cos(pi u)) / 2 ("cosine") or 1 - u ("linear").
        """
        highest = self.learning_rates.get(phase, self.learning_rate)
        if step < self.warmup:
            return highest * ((step + 1) / self.warmup)
        u = (step - self.warmup) / max(1, self.steps - self.warmup)
        return highest * {"constant": 1.0, "cosine": (1 + math.cos(math.pi * u)) / 2, "linear": 1 - u}[self.decay]
