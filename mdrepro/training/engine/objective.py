"""What the training loop asks of an objective."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from mdrepro.data.examples import Batch
from mdrepro.training.engine.draws import Draws


@dataclass(frozen=True)
class Phase:
    """A part of each step with an optimiser of its own.

    Args:
        name: "unet", "generator", "discriminator", "autoencoder" ...
        trains: names in ``Objective.networks`` whose parameters this phase updates; others get no gradient in it.
        every: the phase runs at steps with ``step % every == 0``, steps counted from 0.
        partial: at some steps some of these parameters take no part in the loss; DDP does not wait for them then.
    """

    name: str
    trains: tuple[str, ...]
    every: int = 1
    partial: bool = False


class Objective(Protocol):
    """A method of training: networks and losses; the loop does the rest.

    Attributes:
        networks: what is trained. The loop replaces them by prepared ones (moved, wrapped for DDP or FSDP), so they
            are only called, as ``self.networks[name](...)``: other methods would go past the wrapper.
        frozen: on the loop's device, in eval mode, without gradients.
        ema: set by the loop where averages are on: exponential averages of ``networks``, in eval mode, no gradients.
    """

    networks: dict[str, nn.Module]
    frozen: dict[str, nn.Module]
    ema: dict[str, nn.Module]

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Run one after the other in each step, on the same batch."""

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """Scalars, each the mean over the micro-batch: "loss" is minimised, all are logged, by the same names always.

        Random numbers come from ``draws``; generators of torch, numpy and Python are seeded anew for each micro-batch,
        for modules that draw from them (dropout).
        """


class Networks(ABC):
    """An `Objective` for classes to inherit: it holds the networks."""

    def keep(self, networks: dict[str, nn.Module], frozen: dict[str, nn.Module] | None = None) -> None:
        """Set the attributes of `Objective`: what is trained, and what is not."""
        self.networks, self.frozen = networks, frozen or {}
        self.ema: dict[str, nn.Module] = {}

    @abstractmethod
    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        """See `Objective.losses`."""
