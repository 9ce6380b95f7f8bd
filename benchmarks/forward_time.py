"""A pass of MobileDiffusion's full-size UNet against SD-1.5's: 512 px, eager, float32, batch 1, one thread."""

import time

import torch
from torch import nn

from benchmarks.table import Ratio, in_turn
from mdrepro.models import presets

ROUNDS = 3


def inputs(name: str) -> dict[str, torch.Tensor]:
    """Random ones, at half of the noise."""
    draw = torch.Generator().manual_seed(0)
    zeros = presets.get(name).example_inputs(device="cpu")
    return {key: torch.randn(value.shape, generator=draw) for key, value in zeros.items()} | {
        "timestep": torch.tensor([500.0])
    }


@torch.inference_mode()
def run() -> list[Ratio]:
    """One row. Raises AssertionError where an output is not finite."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    networks: dict[str, nn.Module] = {name: presets.build(name) for name in ("mobilediffusion", "sd15")}
    given = {name: inputs(name) for name in networks}

    def run_once(name: str) -> None:
        assert networks[name](**given[name]).sample.isfinite().all()

    ours, theirs = in_turn(lambda: run_once("mobilediffusion"), lambda: run_once("sd15"), ROUNDS, time.process_time)
    what = "a pass of MobileDiffusion's UNet, 512 px"
    return [Ratio(what, "SD-1.5's UNet", ours, theirs, "CPU s", 0.5, f"float32, 1 thread, median of {ROUNDS}")]
