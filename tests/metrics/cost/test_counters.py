"""The counters themselves, on networks small enough to count by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mdrepro.metrics.cost.counters import _Shapes, count_by_dispatcher, count_by_hooks
from mdrepro.metrics.cost.quantities import Macs
from mdrepro.models import presets

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


def test_a_fused_kernel_is_attention():
    """Which kernel attention takes on meta is torch's choice; should it be a fused one, it is known by its name."""

    class Fused(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten._scaled_dot_product_flash_attention(x, x, x)[0]

    macs = count_by_dispatcher(Fused(), {"x": torch.zeros(1, 2, 5, 8, device="meta")})
    assert macs == Macs(weights=0, attention=2 * 2 * 5 * 5 * 8)


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


@pytest.mark.parametrize("name", ["sd15", "mobilediffusion-lite", "sd-decoder", "text-encoder"])
def test_the_sum_is_that_of_torchs_own_counter(name):
    preset = presets.get(name)
    inputs = preset.example_inputs(preset.multiple)
    with torch.device("meta"):
        network = preset.build()
    with torch.no_grad(), FlopCounterMode(display=False) as torchs:
        network(**inputs)
    macs = count_by_dispatcher(network, inputs)
    assert macs.weights + macs.attention == torchs.get_total_flops() / 2 > 0


X = torch.randn(2, 8, 4, 4)
OPERATORS = {
    "group norm": lambda x: torch.native_group_norm(x, x[0, :, 0, 0], None, 2, 8, 16, 4, 1e-5),
    "layer norm": lambda x: torch.native_layer_norm(x, [4, 4], None, None, 1e-5),
    "addmm": lambda x: F.linear(x[0, 0], x[0, :, :, 0], x[0, :, 0, 0]),
    "addmm of a matrix": lambda x: torch.addmm(x[0, 0], x[0, 1], x[0, 2]),
    "broadcast": lambda x: x[:1] + x[:, :1] * x,
    "broadcast first": lambda x: x[0, 0] * x,
    "same shape": lambda x: (x + x) * 2 / 3,
    "another order": lambda x: x + x.transpose(2, 3),
    "permuted": lambda x: (F.silu(x.transpose(1, 3)), x.transpose(1, 3) * 2),
    "of a view": lambda x: x.chunk(2, dim=1)[0] * F.gelu(x.chunk(2, dim=1)[1]),
    "another type": lambda x: (x.half() * x, x.half() * 2.0, x.long() / 3, x + 1j),
    "softmax": lambda x: (x.softmax(-1), F.silu(x), F.relu(x), x.softmax(-1, dtype=torch.float64)),
    "attention": lambda x: F.scaled_dot_product_attention(x, x, x),
    "in place": lambda x: x.clone().add_(x).mul_(2),
}


@pytest.mark.parametrize("name", OPERATORS)
@torch.no_grad()
def test_answers_by_shape_are_what_a_real_tensor_gives(name):
    def described(out):
        return [(each.shape, each.dtype, each.stride()) for each in ([out] if isinstance(out, torch.Tensor) else out)]

    real = OPERATORS[name](X)
    with _Shapes():
        assert described(OPERATORS[name](X.to("meta"))) == described(real)
