"""Half precision, emulated: planted faults are named, and real files of float16 weights agree."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.export import half, parity, reauthor
from tests.support.small_component import component, export, small


class Planted(nn.Module):
    """Two group norms, the second of activations whose squares float16 cannot hold."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first, self.norm, self.wide, self.last = (
            nn.Conv2d(4, 8, 1),
            nn.GroupNorm(2, 8),
            nn.Conv2d(8, 8, 1),
            nn.GroupNorm(2, 8),
        )
        self.wide.weight.data *= gain

    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"prediction": self.last(self.wide(F.silu(self.norm(self.first(sample))))) * scale}


@pytest.fixture(autouse=True)
def drawn() -> None:
    torch.manual_seed(0)


def test_a_planted_overflow_is_named_and_the_other_group_norm_has_none() -> None:
    assert half.audit(component(Planted(1))) == []
    planted = component(Planted(2000))
    (finding,) = half.audit(planted)
    assert (finding.layer, finding.kind, finding.operation) == ("last", "GroupNorm", "square")
    assert finding.lost_db > half.LOST
    assert parity.measure(planted, half.run(planted)).psnr_db < 35
    assert half.audit(planted, half.HALF_LAYERS) == []
    assert parity.measure(planted, half.run(planted, half.HALF_LAYERS)).psnr_db > 50


def test_a_lossy_layer_is_named() -> None:
    class Difference(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 1000) - 1000

    class Lossy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fine, self.difference = nn.Conv2d(4, 4, 1), Difference()

        def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"prediction": self.difference(self.fine(sample)) * scale}

    (finding,) = half.audit(component(Lossy()))
    assert (finding.layer, finding.operation) == ("difference", "")
    assert half.LOST < finding.lost_db < half.ROUNDED


def test_functions_are_named_after_where_they_are_called() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            heads = x.flatten(2).transpose(1, 2)[:, None] * 1000
            return x + F.scaled_dot_product_attention(heads, heads, heads).sum()

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Identity())
            self.attention = Attention()
            self.attention.add_module("child", nn.Identity())

        def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"prediction": self.attention(sample) * scale}

    (finding,) = half.audit(component(Holder()))
    assert finding.layer == "attention.scaled_dot_product_attention"


def test_the_group_norm_for_half_precision_is_torchs() -> None:
    for shape, scale in (((2, 8, 5, 6), 1.0), ((1, 8, 7), 3e3), ((2, 8, 3, 3), 1e-4)):
        x, weight, bias = scale * (torch.randn(shape) + 1), torch.randn(8), torch.randn(8)
        expected = F.group_norm(x, 4, weight, bias, 1e-6)
        torch.testing.assert_close(reauthor.half_group_norm(x, 4, weight, bias, 1e-6), expected, atol=2e-4, rtol=1e-4)
    flat = torch.zeros(1, 8, 4, 4)
    assert torch.equal(reauthor.half_group_norm(flat, 4), flat)


def test_gelu_overflows_where_swish_does_not() -> None:
    table = half.activations()
    assert (table["swish, dB"] > 60).all()
    assert list(table["swish, overflows"]) == ["", "", "", ""]
    assert list(table["GELU, overflows"]) == ["", "", "mul", "mul"]
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(half.gelu(x), F.gelu(x, approximate="tanh"))


def test_float16_weights_alone_are_as_far_off_as_in_a_litert_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = small()
    entry = export(network, tmp_path, monkeypatch, "fp16")["files"][0]
    emulated = parity.measure(network, half.rounded_weights(network)).psnr_db
    assert abs(emulated - entry["parity"]["psnr_db"]) < 3
