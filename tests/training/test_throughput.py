"""The throughput bench: both sides train the same thing, and the loop is not slower than the script's step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mdrepro.training import throughput


def test_both_sides_train_the_same_network_on_the_same_images() -> None:
    bench = throughput.Bench(batch=4, steps=1, threads=1, precision="fp32", device="cpu")
    first, second = bench.unet(), bench.unet()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    batch = bench.examples.batch([3, 1])
    again = throughput.shapes.Shapes("train", 4).batch([3, 1])
    assert torch.equal(batch["pixels"], again["pixels"])
    assert batch["caption"] == again["caption"]


@pytest.mark.slow
def test_the_cache_and_the_loop_are_worth_it(tmp_path: Path) -> None:
    """The ratios of a quiet machine are 2 and 1 at least; here there is room for the noise of short rounds."""
    call = [sys.executable, "-m", "mdrepro.training.throughput", "--steps", "8", "--rounds", "3"]
    out = json.loads(subprocess.run(call, capture_output=True, text=True, check=True).stdout)
    assert set(out["images_per_second"]) == set(throughput.WAYS)
    assert out["cached_over_diffusers"] > 1.6
    assert out["uncached_over_diffusers"] > 0.85
