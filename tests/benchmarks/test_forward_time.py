"""Time of a full-size pass on this machine, against SD-1.5's in the same run."""

import statistics
import time

import pytest
import torch
from torch import nn

from mdrepro.models import presets

ROUNDS = 3


def inputs(name: str) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    zeros = presets.get(name).example_inputs(device="cpu")
    return {key: torch.randn(value.shape, generator=draw) for key, value in zeros.items()} | {
        "timestep": torch.tensor([500.0])
    }


def seconds(network: nn.Module, given: dict[str, torch.Tensor]) -> float:
    """CPU time, which on one thread is what a pass takes while nothing else runs."""
    before = time.process_time()
    assert network(**given).sample.isfinite().all()
    return time.process_time() - before


@pytest.mark.slow
@torch.inference_mode()
def test_a_pass_of_mobilediffusion_takes_at_most_half_of_sd15s_time():
    """512 px, eager, float32, batch 1, one thread; the networks by turns, the first turn for warming up."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks = {name: presets.build(name) for name in ("mobilediffusion", "sd15")}
    given = {name: inputs(name) for name in networks}
    turns = [{name: seconds(network, given[name]) for name, network in networks.items()} for _ in range(1 + ROUNDS)]
    ours, theirs = (statistics.median(turn[name] for turn in turns[1:]) for name in networks)
    print(f"mobilediffusion {ours:.2f} s, sd15 {theirs:.2f} s, ratio {ours / theirs:.3f}")
    assert ours <= 0.5 * theirs
