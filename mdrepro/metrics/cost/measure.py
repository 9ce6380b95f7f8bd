"""Size and cost of networks: parameters, multiply-accumulates (MACs) and FLOPs, without allocating a weight.

Conventions. One MAC is one multiplication with its addition: 2 FLOPs. Counted are convolutions and matrix products;
norms, activations, softmax, biases and interpolation are not, as in the papers, whose "GFLOPs" are these MACs.
Attention products are the two products of activations with activations, q·k and weights·v; they are given apart, since
counters that hook modules miss them (SD-1.5: 401.6 GMAC with them, 338.6 without).

There are three counters that share no code: the closed form from the configuration (`mdrepro.metrics.cost.closed_form`:
milliseconds, no torch), torch's dispatcher and hooks on modules (`mdrepro.metrics.cost.counters`). `details` gives all.
Importing this module imports no torch. A ``name`` is a preset's; ``resolution`` is the image's height and width in px,
None for the published one (512; 1024 for SDXL). Unknown names and impossible resolutions raise BadInput.
"""

import atexit
import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mdrepro.metrics.cost import closed_form
from mdrepro.metrics.cost.quantities import Cost, Macs
from mdrepro.models import presets

if TYPE_CHECKING:
    from torch import nn


Counter = Callable[["nn.Module", Mapping[str, Any]], Macs]
"""Counts one forward pass of a network with given keyword arguments. Counters are independent of each other."""


@dataclass(frozen=True)
class Blocks:
    """Blocks of each kind in a network, as the papers' tables count them."""

    resnets: int
    self_attention: int
    cross_attention: int


def count_blocks(network: "nn.Module") -> Blocks:
    """ResNet blocks, and self- and cross-attention layers of transformer blocks, of diffusers' networks and ours."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    from mdrepro.models.mobilediffusion.layers import ResnetBlock, TransformerBlock

    modules = list(network.modules())
    ours = [module for module in modules if isinstance(module, TransformerBlock)]
    theirs = [module for module in modules if isinstance(module, BasicTransformerBlock)]
    return Blocks(
        resnets=sum(isinstance(module, (ResnetBlock, ResnetBlock2D)) for module in modules),
        self_attention=sum(block.self_attention is not None for block in ours) + len(theirs),
        cross_attention=sum(block.cross_attention is not None for block in ours)
        + sum(block.attn2 is not None for block in theirs),
    )


def measure(name: str, resolution: int | None = None, *, counter: Counter | None = None) -> Cost:
    """Size and cost of a preset at batch 1, built on the meta device; ``counter`` as for `measure_module`."""
    preset = presets.get(name)
    inputs = preset.example_inputs(resolution)
    return measure_module(_built(name), inputs, name=name, resolution=preset.resolve(resolution), counter=counter)


def measure_module(
    network: "nn.Module", inputs: Mapping[str, Any], *, name: str, resolution: int, counter: Counter | None = None
) -> Cost:
    """Size and cost of any network.

    Args:
        network: a module, on any device; it is put in eval mode for the pass.
        inputs: keyword arguments of its forward, batch 1, tensors on the meta device.
        name, resolution: what the result says it is of.
        counter: how MACs are counted; None for `counters.count_by_dispatcher`.
    """
    if counter is None:
        from mdrepro.metrics.cost.counters import count_by_dispatcher

        counter = count_by_dispatcher
    training = network.training
    macs = counter(network.eval(), inputs)
    network.train(training)
    return _cost(name, _parameters(network), macs, resolution)


def calculate(name: str, resolution: int | None = None) -> Cost:
    """Size and cost of a preset by its closed form: the same numbers as `measure`, in milliseconds and without torch.

    A class of network that has no closed form is measured.
    """
    preset = presets.get(name)
    counted = closed_form.tally(preset, resolution)
    if counted is None:
        return measure(name, resolution)
    return _cost(name, counted.params, counted, preset.resolve(resolution))


@dataclass(frozen=True)
class Details:
    """More about one network than its cost.

    Args:
        counters: MACs, attention products included, by each counter that can count it.
        peak_activations: see `memory.peak_activations`: ``float32`` and ``float16`` with fused softmax attention,
            ``float32_unfused`` and ``float16_unfused`` with stored attention weights.
    """

    cost: Cost
    blocks: Blocks
    counters: Mapping[str, int]
    peak_activations: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Everything by name: the cost's own fields first, then ``attention_share`` and the details."""
        return {
            **self.cost.as_dict(),
            "attention_share": self.cost.attention_share,
            "blocks": asdict(self.blocks),
            "counters": dict(self.counters),
            "peak_activation_bytes": dict(self.peak_activations),
        }


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's cycle collector, which takes a second for walking through all that diffusers imports.

    It would take another one when Python ends: there everything is frozen, which the collector passes over.
    """
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_collection()
def details(name: str, resolution: int | None = None) -> Details:
    """Every counter's count of a preset, its blocks and its peak activation memory, all from one pass on meta."""
    from mdrepro.metrics.cost.counters import run, watch_dispatcher, watch_modules
    from mdrepro.metrics.cost.memory import BYTES, watch_memory

    preset = presets.get(name)
    inputs = preset.example_inputs(resolution)
    network = _built(name)
    operators, modules, numbers = run(network, inputs, watch_dispatcher, watch_modules, watch_memory)
    cost = _cost(name, _parameters(network), operators, preset.resolve(resolution))
    form = closed_form.tally(preset, resolution)
    counted = {"closed form": form, "dispatcher": operators, "hooks": modules}
    totals = {counter: macs.weights + macs.attention for counter, macs in counted.items() if macs}
    peaks = {
        kind + ("" if fused else "_unfused"): numbers[fused] * BYTES[kind] for fused in (True, False) for kind in BYTES
    }
    return Details(cost, count_blocks(network), totals, peaks)


def _built(name: str) -> "nn.Module":
    import torch

    with torch.device("meta"):
        return presets.build(name)


def _parameters(network: "nn.Module") -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _cost(name: str, params: int, macs: Macs | closed_form.Tally, resolution: int) -> Cost:
    both = macs.weights + macs.attention
    return Cost(name, params, both, macs.weights, 2 * both, resolution)
