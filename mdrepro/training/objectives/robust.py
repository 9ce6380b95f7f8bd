"""SnapFusion's robust training (arXiv 2306.00980, Algorithm 1): the diffusion objective with blocks skipped.

Each block is skipped with a probability, as an identity or its 1x1 shortcut, so that the network bears the actions of
`mdrepro.training.evolution.search`. The paper gives no probability, and does not say for whom a block is skipped: here
for all samples of an optimiser step, on all processes, so that a step is the same however it is split, and time is
saved.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import ClassVar

from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.data.examples import Batch, Examples
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.training.engine import checkpoint, loop, processes
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.engine.determinism import placed
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Objective, Phase
from mdrepro.training.evolution.search import Quality, TrainRound
from mdrepro.training.objectives.diffusion import Diffusion
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import DENOISER, Kind, register


@dataclass(eq=False)
class RobustDiffusion(Diffusion):
    """Objective: `Diffusion` of an `EvolvableUNet` in which blocks are skipped.

    The network skips while its loss is computed and at no other time: what is saved or averaged has
    ``skip_probability`` 0, and trains on whole under any other objective. In eval mode nothing is skipped.

    ``unet``, ``scheduler``, ``null_text``, ``drop``, ``min_snr``: as in `Diffusion`. ``skip_probability``: how likely a
    block is skipped at a step, from 0 to 1; 1 - p of the paper.
    """

    phases: ClassVar[tuple[Phase, ...]] = (Phase("unet", ("unet",), partial=True),)
    _: KW_ONLY
    skip_probability: float

    def __post_init__(self, unet: nn.Module, scheduler: Scheduler) -> None:
        super().__post_init__(unet, scheduler)
        if not 0 <= self.skip_probability <= 1:
            raise BadInput(f"skip_probability {self.skip_probability}: it must be from 0 to 1")

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        unet = next(module for module in self.networks["unet"].modules() if isinstance(module, EvolvableUNet))
        unet.robust_training(self.skip_probability, draws.seed())
        try:
            return super().losses(phase, batch, draws)
        finally:
            unet.robust_training(0.0, 0)


def robust_rounds(
    objective: Callable[[EvolvableUNet], Objective], examples: Examples, config: LoopConfig
) -> TrainRound:
    """Rounds of training by the one loop, each with a new optimiser and a seed of its own, ``config.seed`` + number.

    The checkpoints of the round before are removed. ``objective`` is made for a network, which it trains under the name
    ``unet``; ``config`` is of one round.
    """

    def train_round(unet: EvolvableUNet, number: int, folder: Path, left: float | None) -> EvolvableUNet | None:
        if processes.start().is_main_process:
            checkpoint.clear(folder.with_name(f"round-{number - 1:03}") / loop.CHECKPOINTS)
        settings = replace(config, seed=config.seed + number)
        unet.requires_grad_(True)  # an average, which the round before may have given, needs none
        outcome = loop.train(objective(unet), examples, settings, folder, max_seconds=left)
        trained = outcome.networks["unet"]
        assert isinstance(trained, EvolvableUNet)
        return trained if outcome.finished else None

    return train_round


def negative_loss(
    objective: Callable[[EvolvableUNet], Objective], examples: Examples, *, batch: int = 64, seed: int = 0
) -> Quality:
    """The negative mean loss over held-out examples, as a quality: with the same times and noises each time.

    ``objective``: makes it for a network; its first phase's ``loss`` is taken. ``batch``: samples at once. ``seed``: of
    times and noises.
    """

    def quality(unet: EvolvableUNet) -> float:
        measured = objective(unet)
        phase, total = measured.phases[0].name, 0.0
        for network in measured.frozen.values():
            network.to(unet.device).eval()
        for start in range(0, len(examples), batch):
            indices = range(start, min(start + batch, len(examples)))
            draws = Draws(seed, 0, start, len(indices), unet.device, stream="validation")
            loss = measured.losses(phase, placed(examples.batch(indices), unet.device), draws)["loss"]
            total += len(indices) * float(loss)
        return -total / len(examples)

    return quality


def evolvable(inputs: Inputs) -> EvolvableUNet:
    """The recipe's denoiser. Raises BadInput for one whose blocks cannot be skipped."""
    unet = inputs.denoiser()
    if not isinstance(unet, EvolvableUNet):
        raise BadInput(f"{inputs.recipe.name} begins with a {type(unet).__name__}: it must be an EvolvableUNet")
    return unet


def _build(inputs: Inputs) -> Training:
    return inputs.on_latents(RobustDiffusion(evolvable(inputs), inputs.scheduler, inputs.null_text, **inputs.options))


register(Kind(name="robust", build=_build, needs=DENOISER, options=(RobustDiffusion,)))
