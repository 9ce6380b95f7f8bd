"""Peak activation memory of a forward pass, estimated on the meta device without allocating anything.

The pass runs eagerly and the life of every tensor's storage is followed: it begins with the operator that makes it and
ends when Python lets go of the last tensor on it. The estimate is the largest sum of bytes alive at once. Not in it are
weights, the inputs, and what a kernel allocates for itself and frees before it returns. Softmax attention counts as one
fused operator that stores no n x m weights (flash attention), or, unfused, as its two products with the weights stored
between them, as on runtimes without such a kernel; ReLU attention always stores them. A runtime that plans its memory
ahead, or fuses more, needs less: the figure compares networks and bounds eager execution.
"""

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from mdrepro.errors import unknown
from mdrepro.metrics.counters import on_meta

BYTES: Mapping[str, int] = MappingProxyType({"float32": 4, "float16": 2})
"""Bytes of one number, by the type that the network runs in."""


class _Liveness(TorchDispatchMode):
    """Adds up the numbers in storages that operators made and that are still alive; ``peak`` is the most at once."""

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.seen = {tensor.untyped_storage()._cdata for tensor in known}
        self.alive = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in pytree.tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        self.peak = max(self.peak, self.alive)
        return out

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, numbers = storage._cdata, storage.nbytes() // tensor.element_size()
        if key not in self.seen:
            self.seen.add(key)
            self.alive += numbers
            weakref.finalize(storage, self._free, key, numbers)

    def _free(self, key: int, numbers: int) -> None:
        self.seen.discard(key)
        self.alive -= numbers


class _FusedAttention(TorchFunctionMode):
    """Takes softmax attention as one operator that makes its result and nothing else."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            query, _, value = [*args, *(kwargs or {}).values()][:3]
            return query.new_empty(*query.shape[:-1], value.shape[-1])
        return func(*args, **(kwargs or {}))


def peak_activations(
    network: nn.Module, inputs: Mapping[str, Any], kind: str = "float32", *, fused: bool = True
) -> int:
    """Bytes of all activations alive at the worst moment of one forward pass without gradients.

    Args:
        network: any module; its weights are replaced by meta tensors for the pass, not touched.
        inputs: keyword arguments of its forward, tensors on the meta device.
        kind: ``float32`` or ``float16``: the type that every activation is held in.
        fused: whether softmax attention runs as one kernel that stores no attention weights.

    Raises:
        BadInput: another type.
    """
    if kind not in BYTES:
        raise unknown("type of number", kind, BYTES)
    weights = on_meta(network)
    given = [tensor for tensor in pytree.tree_leaves(dict(inputs)) if isinstance(tensor, Tensor)]
    with torch.no_grad(), ExitStack() as modes:
        if fused:
            modes.enter_context(_FusedAttention())
        life = modes.enter_context(_Liveness([*weights.values(), *given]))
        functional_call(network, weights, kwargs=dict(inputs))
    return life.peak * BYTES[kind]
