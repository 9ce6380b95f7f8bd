"""A tiny evolvable UNet whose blocks have a known worth and a known latency, and data, for the tests of evolution.

python -m tests.support.tiny_evolution FOLDER    evolves it there, robust training included
"""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import nn

from mdrepro.metrics.cost.block_latency import BlockTiming, Host, LatencyTable, Timing
from mdrepro.models.snapfusion.blocks import Block, sd_layout
from mdrepro.models.snapfusion.evolvable import EvolvableUNet
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.evolution.search import Evolution, evolve
from mdrepro.training.objectives.robust import RobustDiffusion, robust_rounds

TINY: Mapping[str, Any] = {
    "sample_size": 4,
    "cross_attention_dim": 6,
    "block_out_channels": (4, 8),
    "cross_attention": (True, False),
    "layers_per_block": 1,
    "attention_heads": 2,
    "norm_num_groups": 2,
}
SECOND = 0.24
"""What a second copy of a block adds, as a share of the first; further ones add nothing."""


UNTOUCHED = sd_layout((4, 8), (True, False), 1).blocks()


def tiny(seed: int = 0) -> EvolvableUNet:
    torch.manual_seed(seed)
    return EvolvableUNet(**TINY).eval()


def timing(ms: float) -> Timing:
    return Timing(median_ms=ms, p10_ms=ms, p90_ms=ms, runs=1)


def table(ms: Mapping[str, float], stays: Mapping[str, float], fixed: float) -> LatencyTable:
    """A latency table with these milliseconds a block and, for those that leave a shortcut, of what stays."""
    blocks = []
    for block in UNTOUCHED:
        blocks.append(BlockTiming(**vars(block), timing=timing(ms[block.name])))
        if block.leaves_shortcut:
            shortcut = replace(block, kind="shortcut")
            blocks.append(BlockTiming(**vars(shortcut), timing=timing(stays[block.name])))
    host = Host(machine="none", cores=1, threads=1, device="cpu", torch="2", load_before=None)
    parts = {"conv_in": timing(fixed / 4), "conv_out": timing(3 * fixed / 4)}
    of_inputs: dict[str, Any] = {"batch": 1, "height": 4, "width": 4, "tokens": 3, "dtype": "float32"}
    return LatencyTable(host=host, **of_inputs, blocks=tuple(blocks), fixed=parts, whole=timing(1), ratio=1, seconds=1)


def module(unet: EvolvableUNet, block: Block) -> nn.Module:
    """A block's module by its place in the tree."""
    side, _, number = block.stage.partition("-")
    parent = {"down": f"down_blocks.{int(number or 1) - 1}", "up": f"up_blocks.{number}", "mid": "mid_block"}[side]
    return unet.get_submodule(f"{parent}.{'resnets' if block.kind == 'resnet' else 'attentions'}.{block.index}")


def ran(unet: EvolvableUNet) -> list[str]:
    """Names of the blocks that a forward pass runs, by hooks on their modules."""
    names: list[str] = []
    hooks = [
        module(unet, block).register_forward_hook(lambda *_, name=block.name: names.append(name))
        for block in unet.blocks()
    ]
    try:
        with torch.no_grad():
            unet(torch.ones(1, 4, 4, 4), 5, torch.ones(1, 3, 6))
    finally:
        for hook in hooks:
            hook.remove()
    return names


def families(actions: list[str]) -> dict[str, str]:
    """For each copy's name, the name of the block of the untouched network that it comes from."""
    counts = Counter((block.stage, block.kind) for block in UNTOUCHED)
    found: dict[str, str] = {}
    for verb, stage, kind, index in (action.split() for action in actions):
        if verb == "duplicate":
            source = f"{stage} {kind} {index}"
            found[f"{stage} {kind} {counts[stage, kind]}"] = found.get(source, source)
            counts[stage, kind] += 1
    return found


def worth_of(names: list[str], family: Mapping[str, str], worth: Mapping[str, float]) -> float:
    """Quality of a network that runs these blocks."""
    number = Counter(family.get(name, name) for name in names)
    return sum(worth[name] * (1 + SECOND * (number[name] > 1)) for name in worth if number[name])


class Known:
    """A quality: the worths of the blocks that really run. ``calls`` is how often it was asked."""

    def __init__(self, worth: Mapping[str, float]) -> None:
        self.worth, self.calls = worth, 0

    def __call__(self, unet: EvolvableUNet) -> float:
        assert not unet.training
        assert not torch.is_grad_enabled()
        self.calls += 1
        return worth_of(ran(unet), families(list(unet.config.actions)), self.worth)


class Latents:
    """Random latents and texts, the same for the same index."""

    def __init__(self, count: int = 16) -> None:
        draw = torch.Generator().manual_seed(9)
        self.latent, self.text = torch.randn(count, 4, 4, 4, generator=draw), torch.randn(count, 3, 6, generator=draw)
        self.fingerprint = f"latents {count}"

    def __len__(self) -> int:
        return len(self.latent)

    def batch(self, indices):
        chosen = list(indices)
        return {"latent": self.latent[chosen], "text": self.text[chosen]}


def robust(unet: EvolvableUNet, skip_probability: float = 0.3, **options) -> RobustDiffusion:
    return RobustDiffusion(unet, DDIMScheduler(), torch.zeros(3, 6), skip_probability=skip_probability, **options)


CONFIG = LoopConfig(steps=3, batch=4, learning_rate=1e-2, ema=0.5, checkpoint_every=1, log_every=1)


def evolved(folder: Path) -> Evolution:
    """Three rounds of training, a block's worth its place in computation, all of 2 ms, target 22.5 of 28."""
    worth = {block.name: place for place, block in enumerate(UNTOUCHED, 1)}
    known = table(dict.fromkeys(worth, 2.0), dict.fromkeys(worth, 0.1), 4.0)
    return evolve(tiny(), robust_rounds(robust, Latents(), CONFIG), Known(worth), known, 22.5, folder, rounds=1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    evolved(Path(sys.argv[1]))
