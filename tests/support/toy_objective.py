"""A kind of training run that only tests have: a denoiser is pulled towards predicting a constant."""

import torch
from torch import Tensor, nn

from mdrepro.data.examples import Batch
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import LATENTS, Kind, register


class Toy(Networks):
    """Objective: mean squared difference between the prediction and ``level``."""

    phases = (Phase("unet", ("unet",)),)

    def __init__(self, unet: nn.Module, *, level: float = 0.0, times: tuple[int, ...] = (1,)) -> None:
        self.keep({"unet": unet})
        self.level, self.times = level, times

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x, text = batch["latent"], batch["text"]
        made = self.networks["unet"](x, torch.full((len(x),), self.times[0]), text, return_dict=False)[0]
        return {"loss": (made - self.level).square().mean()}


def _build(inputs: Inputs) -> Training:
    return inputs.on_latents(Toy(inputs.denoiser(), **inputs.options))


register(Kind(name="toy", build=_build, needs=LATENTS, options=(Toy,), sampler="euler"))
