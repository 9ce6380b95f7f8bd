"""Counters that watch a forward pass on the meta device: torch's dispatcher, and hooks on modules.

Neither knows the other's layers: the dispatcher sees operators and no modules, the hooks see modules and no operators.
The third, independent of both, is the closed form of `mdrepro.metrics.cost.closed_form`, which runs nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from mdrepro.metrics.cost.quantities import Macs

aten = torch.ops.aten
Args = tuple[Any, ...]
Options = dict[str, Any] | None


class _Operators(TorchDispatchMode):
    """Adds up the MACs of every operator that reaches the dispatcher, by torch's own formulas (`flop_registry`).

    Batched products and fused attentions in which no operand is a weight are attention products. Weights are known by
    their storage, as a linear layer may reach the dispatcher as a batched product with its weight expanded.
    """

    BATCHED = (aten.bmm, aten.baddbmm)

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.known = {storage(tensor) for tensor in weights.values()}
        self.weights = self.attention = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Args = (), kwargs: Options = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in flop_registry:
            macs = flop_registry[packet](*args, **(kwargs or {}), out_val=out) // 2
            batched = packet in self.BATCHED and not {storage(each) for each in args[-2:]} & self.known
            if batched or "attention" in str(packet):
                self.attention += macs
            else:
                self.weights += macs
        return out


class _Shapes(TorchDispatchMode):
    """Answers by shape alone for operators whose meta kernels are slow Python: norms, pointwise ones, addmm."""

    POINTWISE = (aten.add, aten.mul, aten.div, aten.silu, aten.gelu, aten.relu, aten._softmax, aten._safe_softmax)

    def __torch_dispatch__(self, func: Any, types: object, args: Args = (), kwargs: Options = None) -> Any:
        packet, x = func._overloadpacket, args[0] if args else None
        if not isinstance(x, Tensor) or not (x.is_meta and x.is_floating_point() and x.is_contiguous()):
            return func(*args, **(kwargs or {}))
        if packet is aten.native_group_norm:
            batch, groups = x.shape[0], args[6]
            return x.new_empty(x.shape), x.new_empty(batch, groups), x.new_empty(batch, groups)
        if packet is aten.native_layer_norm:
            rows = (*x.shape[: -len(args[1])], *[1] * len(args[1]))
            return x.new_empty(x.shape), x.new_empty(rows), x.new_empty(rows)
        if packet is aten.addmm:
            return x.new_empty(args[1].shape[0], args[2].shape[1])
        if packet in self.POINTWISE and all(_is_neutral(x, other) for other in args[1:]):
            return x.new_empty(x.shape)
        return func(*args, **(kwargs or {}))


def _is_neutral(x: Tensor, other: object) -> bool:
    """Whether ``other`` changes neither shape nor type of a pointwise result."""
    if isinstance(other, Tensor):
        return other.shape == x.shape and other.dtype == x.dtype and other.is_contiguous()
    return not isinstance(other, (complex, torch.dtype))


def storage(tensor: Tensor) -> int:
    """Which storage a tensor is in, as long as that lives."""
    return tensor.untyped_storage()._cdata


Watch = Callable[[nn.Module, Mapping[str, Tensor], Mapping[str, Any]], AbstractContextManager[Callable[[], Any]]]
"""From what `run` runs, with its weights, to a context for the pass; it gives a function that returns what was seen."""


def run(network: nn.Module, inputs: Mapping[str, Any], *watches: Watch) -> list[Any]:
    """What each of ``watches`` sees of one forward pass without gradients on the meta device.

    ``network``: any module; its weights are replaced by meta tensors for the pass, not touched. ``inputs``: keyword
    arguments of its forward, tensors on the meta device.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    weights = {name: tensor.to("meta") for name, tensor in tensors.items()}
    with torch.no_grad(), _Shapes(), ExitStack() as stack:
        seen = [stack.enter_context(watch(network, weights, inputs)) for watch in watches]
        functional_call(network, weights, kwargs=dict(inputs))
    return [read() for read in seen]


@contextmanager
def watch_dispatcher(_: nn.Module, weights: Mapping[str, Tensor], inputs: object) -> Iterator[Callable[[], Macs]]:
    """Counts what reaches torch's dispatcher; see `count_by_dispatcher`."""
    with _Operators(weights) as seen:
        yield lambda: Macs(seen.weights, seen.attention)


def count_by_dispatcher(network: nn.Module, inputs: Mapping[str, Any]) -> Macs:
    """MACs as torch's dispatcher sees them: every operator that reaches the device, by the formulas of torch's own
    `FlopCounterMode` (which gives the same sum, and takes longer, as it also follows modules).

    On the meta device only, see `run`: on the CPU the fused attention kernel is counted as zero.
    """
    macs: Macs = run(network, inputs, watch_dispatcher)[0]
    return macs


PROJECTIONS = (("to_q", "to_k", "to_v"), ("q_proj", "k_proj", "v_proj"))
"""What attention modules call their query, key and value layers: diffusers' and ours, then transformers'."""


@contextmanager
def watch_modules(network: nn.Module, *_: object) -> Iterator[Callable[[], Macs]]:
    """Counts what the network's modules put out; see `count_by_hooks`."""
    weights = attention = 0
    shapes: dict[nn.Module, torch.Size] = {}

    def layer(module: nn.Module, _: object, out: Tensor) -> None:
        nonlocal weights
        shapes[module] = out.shape
        assert isinstance(module.weight, Tensor)
        weights += out.numel() * module.weight[0].numel()

    def products(module: nn.Module, names: tuple[str, str, str]) -> Callable[..., None]:
        query, key = (getattr(module, name) for name in names[:2])
        value = getattr(module, names[2], None) or key

        def hook(*_: object) -> None:
            nonlocal attention
            *batch, queries, width = shapes[query]
            attention += math.prod(batch) * queries * shapes[key][-2] * (width + shapes[value][-1])

        return hook

    with ExitStack() as hooks:
        for module in network.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                hooks.callback(module.register_forward_hook(layer).remove)
            for names in PROJECTIONS:
                if all(isinstance(getattr(module, name, None), nn.Linear) for name in names[:2]):
                    hooks.callback(module.register_forward_hook(products(module, names)).remove)
        yield lambda: Macs(weights, attention)


def count_by_hooks(network: nn.Module, inputs: Mapping[str, Any]) -> Macs:
    """MACs as modules report them: each convolution and linear layer from its own shapes, and the attention products
    from what a module with query and key layers put out of them.

    Convolutions and matrix products must be modules of torch, and attention modules name their layers as `PROJECTIONS`.
    """
    macs: Macs = run(network, inputs, watch_modules)[0]
    return macs
