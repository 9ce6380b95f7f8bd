"""Peak activation memory: by hand, and against what the CPU's allocator really handed out."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from mdrepro.core.errors import BadInput
from mdrepro.metrics.cost.memory import peak_activations
from mdrepro.models.mobilediffusion.unet import MobileDiffusionUNet
from tests.support.tiny_pipeline import UNET

torch.set_num_threads(1)

SMALL = UNET | {"sample_size": 32, "block_out_channels": (32, 64, 128)}


def inputs(device: str) -> dict[str, torch.Tensor]:
    with torch.device(device):
        return {
            "sample": torch.zeros(1, 4, 32, 32),
            "timestep": torch.zeros(1),
            "encoder_hidden_states": torch.zeros(1, 7, 24),
        }


def really(network: nn.Module, given: dict[str, torch.Tensor]) -> int:
    """Bytes that the allocator had handed out at the worst moment of one forward pass."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        out = network(**given)
    assert out is not None
    events = sorted(seen.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    alive = peak = 0
    for event in events:
        if event.name() == "[memory]":
            alive += event.nbytes()
            peak = max(peak, alive)
    return peak


def convolutions() -> nn.Module:
    upsample = nn.Upsample(scale_factor=2)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 32, 3, padding=1), upsample, nn.Conv2d(32, 3, 1)
    ).eval()


def test_by_hand():
    """The worst moment is the upsampling: its input of 32 x 64 x 64 and its output of 32 x 128 x 128."""
    given = {"input": torch.zeros(1, 3, 64, 64, device="meta")}
    numbers = 32 * 64 * 64 + 32 * 128 * 128
    assert peak_activations(convolutions(), given) == 4 * numbers
    assert peak_activations(convolutions(), given, "float16") == 2 * numbers


def test_views_and_work_in_place_cost_nothing():
    class Views(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = x + 1
            return made.view(-1).relu_()[:5]

    assert peak_activations(Views(), {"x": torch.zeros(10, 10, device="meta")}) == 400


def test_attention_weights_are_stored_only_when_it_is_not_fused():
    class Attend(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(x, x, x)

    given = {"x": torch.zeros(1, 2, 256, 8, device="meta")}
    out, weights = 4 * 2 * 256 * 8, 4 * 2 * 256 * 256
    assert peak_activations(Attend(), given) == out
    assert peak_activations(Attend(), given, fused=False) >= out + weights
    with torch.device("meta"):
        sizes = [
            peak_activations(MobileDiffusionUNet(attention=kind), _full(), fused=fused)
            for kind, fused in (("softmax", True), ("relu", True))
        ]
    assert sizes[0] <= sizes[1]


def _full() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return {
            "sample": torch.zeros(1, 8, 64, 64),
            "timestep": torch.zeros(1),
            "encoder_hidden_states": torch.zeros(1, 77, 768),
        }


@pytest.mark.parametrize("attention", ["softmax", "relu"])
def test_a_real_pass_takes_what_was_estimated_and_its_kernels_little_more(attention):
    network = MobileDiffusionUNet(**SMALL, attention=attention).eval()
    network(**inputs("cpu"))
    estimate, measured = peak_activations(network, inputs("meta")), really(network, inputs("cpu"))
    assert estimate <= measured <= 1.25 * estimate


def test_a_real_pass_of_convolutions():
    network, given = convolutions(), torch.zeros(1, 3, 64, 64)
    network(given)
    estimate = peak_activations(network, {"input": given.to("meta")})
    assert estimate <= really(network, {"input": given}) <= 1.1 * estimate


def test_another_type_of_number():
    with pytest.raises(BadInput, match="allowed: float32, float16"):
        peak_activations(convolutions(), {}, "int8")
