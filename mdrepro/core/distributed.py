"""The processes that ``torchrun`` or ``accelerate launch`` started for one command, and sums over all of them."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def position() -> tuple[int, int]:
    """This process's index, from 0, and the number of processes; (0, 1) outside of a launcher. Imports nothing."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def device() -> "torch.device":
    """This process's own device, once the processes have found each other; the CPU where there is no other."""
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

    own: torch.device = PartialState(cpu=not torch.accelerator.is_available()).device
    return own


def total(tensor: "torch.Tensor") -> "torch.Tensor":
    """The sum over all processes' tensors, of one shape and type, the same on each; on the CPU."""
    if position()[1] == 1:
        return tensor
    from accelerate.utils import reduce  # type: ignore[import-untyped]

    summed: torch.Tensor = reduce(tensor.to(device()), "sum")
    return summed.cpu()
