"""Which run each network in memory was loaded from, kept for as long as the network is there.

Importing this module imports no torch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from torch import nn

    from mdrepro.training.runs.store import Run

Part = TypeVar("Part")
_RUNS: "WeakKeyDictionary[nn.Module, Run]" = WeakKeyDictionary()


def noted(part: Part, run: "Run") -> Part:
    """The part itself; if it is a network, it is noted as loaded from the run."""
    from torch import nn

    if isinstance(part, nn.Module):
        _RUNS[part] = run
    return part


def run_of(network: "nn.Module") -> "Run | None":
    """The run that a network was loaded from; None for one that was not."""
    return _RUNS.get(network)


def runs_of(components: Mapping[str, object]) -> dict[str, "Run"]:
    """The runs that a pipeline's networks were loaded from, by component."""
    from torch import nn

    return {name: _RUNS[part] for name, part in components.items() if isinstance(part, nn.Module) and part in _RUNS}
