"""The throughput bench: both sides train the same thing."""

import pytest
import torch

from benchmarks import throughput


def test_both_sides_train_the_same_network_on_the_same_images() -> None:
    bench = throughput.Bench(batch=4, steps=1, threads=1, precision="fp32", device="cpu")
    first, second = bench.unet(), bench.unet()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    batch = bench.examples.batch([3, 1])
    again = throughput.shapes.Shapes("train", 4).batch([3, 1])
    assert torch.equal(batch["pixels"], again["pixels"])
    assert batch["caption"] == again["caption"]


@pytest.mark.slow
def test_bf16_is_measured_on_both_sides() -> None:
    out = throughput.measure(batch=2, steps=1, rounds=1, threads=1, precision="bf16")
    assert all(speed > 0 for speed in out["images_per_second"].values())
    assert "bf16" in out["protocol"]
