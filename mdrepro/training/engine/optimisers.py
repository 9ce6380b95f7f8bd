"""Optimisers, and exponential averages of weights."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from mdrepro.training.engine import muon
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.engine.processes import local, whole


def build(config: LoopConfig, phase: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """A phase's AdamW (arXiv 1711.05101), or Muon with its own betas."""
    rate, decay = config.rate(phase, 0), config.weight_decay
    if config.optimiser == "muon":
        return muon.Muon(parameters, lr=rate, weight_decay=decay)
    betas = config.phase_betas.get(phase, config.betas)
    return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=True)


def parts(optimiser: torch.optim.Optimizer) -> tuple[torch.optim.Optimizer, ...]:
    """The optimisers that hold state: Muon has one of its own for biases and norms."""
    return (optimiser, optimiser._rest) if isinstance(optimiser, muon.Muon) else (optimiser,)


def clip(parameters: Sequence[nn.Parameter], greatest: float) -> Tensor:
    """Scale the gradients so that their common norm is at most ``greatest``; the norm before, a scalar."""
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    torch.nn.utils.clip_grads_with_norm_(parameters, greatest, norm)
    return norm


class Averages:
    """Exponential averages of networks' parameters, by the networks' names, changed in place.

    Buffers (statistics of norms) are taken as they are.
    """

    def __init__(self, averages: Mapping[str, nn.Module], networks: Mapping[str, nn.Module]) -> None:
        pairs = [(averages[name], networks[name]) for name in averages]
        self._means = [local(p) for mean, _ in pairs for p in mean.parameters()]
        self._weights = [local(p).detach() for _, net in pairs for p in net.parameters()]
        self._buffers = [both for mean, net in pairs for both in zip(mean.buffers(), net.buffers(), strict=True)]

    @torch.no_grad()
    def update(self, n: int, ema: float) -> None:
        """average <- d average + (1 - d) weight, after step n from 0.

        d is min(ema, (1 + n) / (10 + n)): early averages forget the random weights that they began with.
        """
        decay = min(ema, (1 + n) / (10 + n))
        if self._means:
            torch._foreach_lerp_(self._means, self._weights, 1 - decay)
        for own, new in self._buffers:
            own.copy_(new)
