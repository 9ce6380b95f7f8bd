"""All tensors of a run, as whole tensors in the files of a checkpoint and back.

For each network: ``<network>`` (weights), ``<network>.ema`` (averages), and ``<network>.optimiser`` with the keys
``<phase>/<parameter>/<quantity>``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput
from mdrepro.training.engine import optimisers, processes
from mdrepro.training.engine.checkpoint import Checkpoint

Files = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class State:
    """Where a run keeps its tensors.

    Args:
        networks: by name, not wrapped (under FSDP their weights are in parts).
        averages: by the same names; empty without averages.
        optimisers: by phase and network.
    """

    networks: Mapping[str, nn.Module]
    averages: Mapping[str, nn.Module]
    optimisers: Mapping[str, Mapping[str, torch.optim.Optimizer]]

    def gathered(self, keep: bool) -> Files:
        """All tensors by file and name. Processes with ``keep`` false help to put them together and get none."""
        return {file: _whole(values, keep) for file, values in self._files()}

    def restore(self, saved: Checkpoint) -> None:
        """Load everything from a checkpoint. Raises BadInput if it is of other networks."""
        for name, network in self.networks.items():
            _load(saved, name, network)
            if name in self.averages:
                _load(saved, f"{name}.ema", self.averages[name])
            tensors = saved.tensors(f"{name}.optimiser")
            for phase, optimiser in self._optimisers_of(name):
                mine = {key.removeprefix(f"{phase}/"): v for key, v in tensors.items() if key.startswith(f"{phase}/")}
                processes.load_optimiser_state(network, optimiser, mine)

    def _files(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for name, network in self.networks.items():
            yield name, processes.state(network)
            if name in self.averages:
                yield f"{name}.ema", processes.state(self.averages[name])
            states = [(phase, processes.optimiser_state(network, part)) for phase, part in self._optimisers_of(name)]
            yield f"{name}.optimiser", {f"{phase}/{key}": v for phase, own in states for key, v in own.items()}

    def _optimisers_of(self, network: str) -> list[tuple[str, torch.optim.Optimizer]]:
        """All that hold state of a network, with their phases."""
        trained = [(phase, by[network]) for phase, by in self.optimisers.items() if network in by]
        return [(phase, part) for phase, optimiser in trained for part in optimisers.parts(optimiser)]


def not_finite(files: Files) -> str | None:
    """Names the first tensor that holds a number that is not finite."""
    tensors = ((f"{name} of {file}", value) for file, values in files.items() for name, value in values.items())
    return next((name for name, value in tensors if not torch.isfinite(value).all()), None)


def _whole(values: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    gathered = ((name, processes.whole(value.detach())) for name, value in values.items())
    return {name: value.cpu() for name, value in gathered if keep}


def _load(checkpoint: Checkpoint, file: str, network: nn.Module) -> None:
    saved = checkpoint.tensors(file)
    shapes = {name: tuple(value.shape) for name, value in saved.items()}
    wanted = {name: tuple(value.shape) for name, value in processes.state(network).items()}
    if shapes != wanted:
        name = min(name for name in shapes | wanted if shapes.get(name) != wanted.get(name))
        there, here = shapes.get(name, "absent"), wanted.get(name, "absent")
        raise BadInput(
            f"{checkpoint.folder / file}.safetensors is of another network: {name} is {there} there, "
            f"{here} here; train that network, or take another folder"
        )
    processes.load(network, saved)
