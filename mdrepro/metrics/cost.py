"""Size and cost of networks: parameters, multiply-accumulates (MACs) and FLOPs, without allocating a weight.

Conventions. One MAC is one multiplication with its addition: 2 FLOPs. Counted are convolutions and matrix products;
norms, activations, softmax, biases and interpolation are not, as in the papers, whose "GFLOPs" are these MACs.
Attention products are the two products of activations with activations, q·k and weights·v; they are given apart, since
counters that hook modules miss them (SD-1.5: 401.6 GMAC with them, 338.6 without).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from mdrepro.models import presets


@dataclass(frozen=True)
class Cost:
    """Size and cost of one forward pass at batch 1.

    Args:
        model: the network's name.
        params: trainable and fixed parameters.
        macs: multiply-accumulates, attention products included.
        macs_without_attention: those with a weight as one operand.
        flops: 2 x ``macs``.
        resolution: image height and width, px.
    """

    model: str
    params: int
    macs: int
    macs_without_attention: int
    flops: int
    resolution: int

    @property
    def attention_share(self) -> float:
        """Attention products as a part of all MACs, 0 to 1."""
        return 1 - self.macs_without_attention / self.macs

    def as_dict(self) -> dict[str, str | int]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True)
class Macs:
    """MACs of one forward pass: products with a weight, and products of two activations (attention)."""

    weights: int
    attention: int


Counter = Callable[[nn.Module, Mapping[str, Any]], Macs]
"""Counts one forward pass of a network with given keyword arguments. Counters are independent of each other."""


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


def count_by_dispatcher(network: nn.Module, inputs: Mapping[str, Any]) -> Macs:
    """MACs as torch's dispatcher sees them: every operator that reaches the device, by `FlopCounterMode`.

    On the meta device only: on the CPU the fused attention kernel is counted as zero.

    Args:
        network: any module; its weights are replaced by meta tensors for the pass, not touched.
        inputs: keyword arguments of its forward, tensors on the meta device.
    """
    tensors = dict(network.named_parameters()) | dict(network.named_buffers())
    on_meta = {name: tensor.to("meta") for name, tensor in tensors.items()}
    products = _AttentionProducts({_storage(tensor) for tensor in on_meta.values()})
    with torch.no_grad(), FlopCounterMode(display=False) as total, products:
        functional_call(network, on_meta, kwargs=dict(inputs))
    macs = total.get_total_flops() // 2
    return Macs(weights=macs - products.macs, attention=products.macs)


@dataclass(frozen=True)
class Blocks:
    """How many blocks of each kind a network has, as the papers' tables count them."""

    resnets: int
    self_attention: int
    cross_attention: int


def count_blocks(network: nn.Module) -> Blocks:
    """ResNet blocks, and self- and cross-attention layers of transformer blocks, of diffusers' networks and ours."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    from mdrepro.models.layers import ResnetBlock, TransformerBlock

    modules = list(network.modules())
    ours = [module for module in modules if isinstance(module, TransformerBlock)]
    theirs = [module for module in modules if isinstance(module, BasicTransformerBlock)]
    return Blocks(
        resnets=sum(isinstance(module, (ResnetBlock, ResnetBlock2D)) for module in modules),
        self_attention=sum(block.self_attention is not None for block in ours) + len(theirs),
        cross_attention=sum(block.cross_attention is not None for block in ours)
        + sum(block.attn2 is not None for block in theirs),
    )


def measure(name: str, resolution: int | None = None, *, counter: Counter = count_by_dispatcher) -> Cost:
    """Size and cost of a preset at batch 1, built on the meta device.

    Args:
        name: a name in `mdrepro.models.presets`.
        resolution: image height and width in px; None for the published one (512; 1024 for SDXL).
        counter: how MACs are counted.

    Raises:
        BadInput: an unknown name, or a resolution that the network cannot take.
    """
    preset = presets.get(name)
    inputs = preset.example_inputs(resolution)
    with torch.device("meta"):
        network = preset.build()
    return measure_module(
        network, inputs, name=name, resolution=preset.resolution if resolution is None else resolution, counter=counter
    )


def measure_module(
    network: nn.Module,
    inputs: Mapping[str, Any],
    *,
    name: str,
    resolution: int,
    counter: Counter = count_by_dispatcher,
) -> Cost:
    """Size and cost of any network.

    Args:
        network: a module, on any device; it is put in eval mode for the pass.
        inputs: keyword arguments of its forward, batch 1, tensors on the meta device.
        name, resolution: what the result says it is of.
        counter: how MACs are counted.
    """
    training = network.training
    macs = counter(network.eval(), inputs)
    network.train(training)
    both = macs.weights + macs.attention
    params = sum(parameter.numel() for parameter in network.parameters())
    return Cost(name, params, both, macs.weights, 2 * both, resolution)
