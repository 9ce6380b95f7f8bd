"""Training of the independent scorer (`mdrepro.models.scenes.reader`) on real renders, and on nothing else."""

from typing import ClassVar

from torch import Tensor

from mdrepro.data.examples import Batch
from mdrepro.models.scenes.reader import SceneReader, reading_loss, targets
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Phase
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import Kind, register


class Reading(Networks):
    """Objective: `reading_loss` of a `SceneReader`. Batches need ``pixels`` and ``scene``."""

    phases: ClassVar[tuple[Phase, ...]] = (Phase("reader", ("reader",)),)

    def __init__(self, reader: SceneReader) -> None:
        self.keep({"reader": reader})

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x = batch["pixels"]
        wanted = {name: value.to(x.device) for name, value in targets(batch["scene"]).items()}
        return reading_loss(self.networks["reader"](x), wanted)


def _build(inputs: Inputs) -> Training:
    reader = SceneReader(**inputs.recipe.network)
    return Training(Reading(reader), inputs.examples(), lambda networks: {"reader": networks["reader"]})


register(Kind(name="reader", build=_build, network=SceneReader, gives="reader"))
