"""Counters that watch a forward pass on the meta device: torch's dispatcher, and hooks on modules.

Neither knows the other's layers: the dispatcher sees operators and no modules, the hooks see modules and no operators.
The third, independent of both, is the closed form of `mdrepro.models.closed_form`, which runs nothing.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mdrepro.metrics.cost import Counter, Macs


class _AttentionProducts(TorchDispatchMode):
    """Adds up the MACs of batched products and fused attentions in which no operand is a weight.

    A linear layer may reach the dispatcher as a batched product with its weight expanded, so weights are known by
    their storage, not by the operator.
    """

    BATCHED = (torch.ops.aten.bmm, torch.ops.aten.baddbmm)

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights = weights
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in self.BATCHED:
            left, right = args[-2:]
            if not {_storage(left), _storage(right)} & self.weights:
                self.macs += left.shape[0] * left.shape[1] * left.shape[2] * right.shape[2]
        elif "attention" in str(packet) and packet in flop_registry:
            self.macs += flop_registry[packet](*args, **(kwargs or {}), out_val=out) // 2
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def on_meta(network: nn.Module) -> dict[str, Tensor]:
    """The network's parameters and buffers by name, as meta tensors."""
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    return {name: tensor.to("meta") for name, tensor in tensors.items()}


def count_by_dispatcher(network: nn.Module, inputs: Mapping[str, Any]) -> Macs:
    """MACs as torch's dispatcher sees them: every operator that reaches the device, by `FlopCounterMode`.

    On the meta device only: on the CPU the fused attention kernel is counted as zero.

    Args:
        network: any module; its weights are replaced by meta tensors for the pass, not touched.
        inputs: keyword arguments of its forward, tensors on the meta device.
    """
    weights = on_meta(network)
    products = _AttentionProducts({_storage(tensor) for tensor in weights.values()})
    with torch.no_grad(), FlopCounterMode(display=False) as total, products:
        functional_call(network, weights, kwargs=dict(inputs))
    macs = total.get_total_flops() // 2
    return Macs(weights=macs - products.macs, attention=products.macs)


PROJECTIONS = (("to_q", "to_k", "to_v"), ("q_proj", "k_proj", "v_proj"))
"""What attention modules call their query, key and value layers: diffusers' and ours, then transformers'."""


def count_by_hooks(network: nn.Module, inputs: Mapping[str, Any]) -> Macs:
    """MACs as modules report them: each convolution and linear layer from its own shapes, and the attention products
    from what a module with query and key layers put out of them.

    Args:
        network: any module whose convolutions and matrix products are modules of torch, and whose attention modules
            name their layers as in `PROJECTIONS`; its weights are replaced by meta tensors for the pass, not touched.
        inputs: keyword arguments of its forward, tensors on the meta device.
    """
    weights = attention = 0
    shapes: dict[nn.Module, torch.Size] = {}

    def layer(module: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal weights
        shapes[module] = out.shape
        assert isinstance(module.weight, Tensor)
        weights += out.numel() * module.weight[0].numel()

    def products(module: nn.Module, names: tuple[str, str, str]) -> Callable[..., None]:
        query, key = (getattr(module, name) for name in names[:2])
        value = getattr(module, names[2], None) or key

        def hook(*_: Any) -> None:
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
        with torch.no_grad():
            functional_call(network, on_meta(network), kwargs=dict(inputs))
    return Macs(weights, attention)


COUNTERS: Mapping[str, Counter] = MappingProxyType({"dispatcher": count_by_dispatcher, "hooks": count_by_hooks})
"""The counters that run a network, by the name that `mdrepro cost --details` gives them."""
