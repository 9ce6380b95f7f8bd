"""Peak activation memory of a forward pass, estimated on the meta device without allocating anything.

The pass runs eagerly, and the estimate is the largest sum of bytes alive at once: a tensor's storage lives from the
operator that makes it until Python lets go of the last tensor on it. Not in it are weights, inputs, and what a kernel
allocates for itself. Softmax attention counts as one fused operator that stores no n x m weights (flash attention), or,
unfused, as its two products with the weights stored between them; ReLU attention always stores them. A runtime that
plans its memory ahead, or fuses more, needs less: the figure compares networks and bounds eager execution.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mdrepro.core.errors import check
from mdrepro.metrics.cost.counters import Args, Options, run, storage

BYTES: Mapping[str, int] = {"float32": 4, "float16": 2}
"""Bytes of one number, by the type that the network runs in."""


class _Liveness(TorchDispatchMode):
    """Adds up the numbers in storages that operators made and that are still alive; the peaks are the most at once.

    In ``fused`` sums, what softmax attention makes on the way to its result does not count.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.seen = {storage(tensor) for tensor in known}
        self.inner: set[int] = set()
        self.inside = False
        self.alive = self.peak = self.fused_alive = self.fused_peak = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Args = (), kwargs: Options = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        self._note()
        return out

    def attention(self, attend: Callable[[], Tensor]) -> Tensor:
        """Run attention; in fused sums its result alone counts."""
        self.inside = True
        out = attend()
        self.inside = False
        if storage(out) in self.inner:
            self.inner.discard(storage(out))
            self.fused_alive += _numbers(out)
            self._note()
        return out

    def _note(self) -> None:
        self.peak, self.fused_peak = max(self.peak, self.alive), max(self.fused_peak, self.fused_alive)

    def _add(self, tensor: Tensor) -> None:
        key, numbers = storage(tensor), _numbers(tensor)
        if key in self.seen:
            return
        self.seen.add(key)
        self.alive += numbers
        if self.inside:
            self.inner.add(key)
        else:
            self.fused_alive += numbers
        weakref.finalize(tensor.untyped_storage(), self._free, key, numbers)

    def _free(self, key: int, numbers: int) -> None:
        self.seen.discard(key)
        self.alive -= numbers
        if key in self.inner:
            self.inner.discard(key)
        else:
            self.fused_alive -= numbers


def _numbers(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes() // tensor.element_size()


class _SoftmaxAttention(TorchFunctionMode):
    """Tells ``life`` where softmax attention begins and ends."""

    def __init__(self, life: _Liveness) -> None:
        super().__init__()
        self.life = life

    def __torch_function__(self, func: Any, types: object, args: Args = (), kwargs: Options = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self.life.attention(lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


@contextmanager
def watch_memory(
    _: nn.Module, weights: Mapping[str, Tensor], inputs: Mapping[str, Any]
) -> Iterator[Callable[[], dict[bool, int]]]:
    """Follows what a pass holds: the most numbers alive at once, by whether softmax attention is fused."""
    given = [tensor for tensor in pytree.tree_leaves(dict(inputs)) if isinstance(tensor, Tensor)]
    life = _Liveness([*weights.values(), *given])
    with life, _SoftmaxAttention(life):
        yield lambda: {True: life.fused_peak, False: life.peak}


def peak_activations(
    network: nn.Module, inputs: Mapping[str, Any], kind: str = "float32", *, fused: bool = True
) -> int:
    """Bytes of all activations alive at the worst moment of one forward pass without gradients.

    Args:
        network, inputs: as for `counters.run`.
        kind: ``float32`` or ``float16``, in which every activation is held. Raises BadInput for another.
        fused: whether softmax attention runs as one kernel that stores no attention weights.
    """
    check("type of number", kind, BYTES)
    peaks: dict[bool, int] = run(network, inputs, watch_memory)[0]
    return peaks[fused] * BYTES[kind]
