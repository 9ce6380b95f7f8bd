"""The counters themselves, on networks small enough to count by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdrepro.metrics.cost import Macs
from mdrepro.metrics.counters import count_by_dispatcher, count_by_hooks

torch.set_num_threads(1)


class Batched(nn.Module):
    """A linear layer that reaches the dispatcher as a batched product, then attention of its output with itself."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8))
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.bmm(x, self.weight.expand(x.shape[0], 8, 8))
        if self.fused:
            return F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])
        return torch.baddbmm(torch.zeros_like(x), torch.relu(x @ x.transpose(1, 2)), x)


@pytest.mark.parametrize("fused", [True, False])
def test_weights_are_known_by_their_storage(fused):
    macs = count_by_dispatcher(Batched(fused), {"x": torch.zeros(2, 5, 8, device="meta")})
    assert macs == Macs(weights=2 * 5 * 8 * 8, attention=2 * (2 * 5 * 5 * 8))


class Attention(nn.Module):
    """Attention of 6 positions to 4 keys: width 8, values of width 5, as diffusers or transformers name it."""

    def __init__(self, names: tuple[str, str, str]) -> None:
        super().__init__()
        self.names = names
        for name, width in zip(names, (8, 8, 5), strict=True):
            setattr(self, name, nn.Linear(3, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (getattr(self, name) for name in self.names)
        return torch.softmax(query(x) @ key(x[:, :4]).transpose(1, 2), -1) @ value(x[:, :4])


@pytest.mark.parametrize("names", [("to_q", "to_k", "to_v"), ("q_proj", "k_proj", "v_proj")])
@pytest.mark.parametrize("count", [count_by_dispatcher, count_by_hooks])
def test_attention_by_hand(names, count):
    macs = count(Attention(names), {"x": torch.zeros(2, 6, 3, device="meta")})
    assert macs == Macs(weights=2 * (6 * 3 * 8 + 4 * 3 * 8 + 4 * 3 * 5), attention=2 * 6 * 4 * (8 + 5))


@pytest.mark.parametrize("count", [count_by_dispatcher, count_by_hooks])
def test_convolutions_by_hand(count):
    network = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Conv2d(6, 5, 1))
    macs = count(network, {"input": torch.zeros(1, 4, 8, 8, device="meta")})
    assert macs == Macs(weights=16 * (6 * 2 * 9 + 6 * 5), attention=0)


def test_hooks_are_taken_away_again_and_weights_left_alone():
    network = Attention(("to_q", "to_k", "to_v"))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = torch.randn(1, 6, 3)
    out = network(x)
    count_by_hooks(network, {"x": torch.zeros(1, 6, 3, device="meta")})
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(x), out)
