"""Training of the independent scorer (`mdrepro.models.scenes.reader`) on real renders, and on nothing else."""

from torch import Tensor, nn

from mdrepro.data.examples import Batch
from mdrepro.models.scenes.reader import SceneReader, reading_loss, targets
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Phase
from mdrepro.training.objectives.inputs import Inputs, Training
from mdrepro.training.objectives.kinds import Kind, register


class Reading:
    """Objective: `reading_loss` of a `SceneReader`.

    Batches need ``pixels`` and ``scene``.

    Args:
        reader: the network.
    """

    phases: tuple[Phase, ...] = (Phase("reader", ("reader",)),)

    def __init__(self, reader: SceneReader) -> None:
        self.networks: dict[str, nn.Module] = {"reader": reader}
        self.frozen: dict[str, nn.Module] = {}
        self.ema: dict[str, nn.Module] = {}

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        x = batch["pixels"]
        wanted = {name: value.to(x.device) for name, value in targets(batch["scene"]).items()}
        return reading_loss(self.networks["reader"](x), wanted)


def _build(inputs: Inputs) -> Training:
    reader = SceneReader(**inputs.recipe.network)
    return Training(Reading(reader), inputs.examples(), lambda networks: {"reader": networks["reader"]})


register(Kind(name="reader", build=_build, network=SceneReader, gives="reader", sampler=None))
