"""Layers for ExecuTorch compute what torch's do."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mdrepro.core.errors import BadInput
from mdrepro.export import xnnpack_layers
from mdrepro.export.reauthor import Reauthored
from mdrepro.export.xnnpack_layers import LARGE, Rewritten
from tests.support.small_component import draw, small


@pytest.fixture(autouse=True)
def drawn() -> None:
    torch.manual_seed(0)


def test_means_over_the_last_dimension() -> None:
    for shape in ((2, 3, 5), (2, LARGE, 5), (4, 7)):
        x = torch.randn(shape)
        torch.testing.assert_close(xnnpack_layers.mean(x, -1, keepdim=True), x.mean(-1, keepdim=True))
    assert xnnpack_layers.mean(x, 0).shape == (7,)
    assert xnnpack_layers.mean(x).shape == ()


def test_products_of_attention() -> None:
    a, b = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(xnnpack_layers.transposed_product(a, b), a @ b.transpose(-1, -2))


def test_chunks() -> None:
    for size in (6, 7):
        x = torch.randn(2, size)
        ours, torchs = xnnpack_layers.chunk(x, 2, -1), x.chunk(2, -1)
        assert all(map(torch.equal, ours, torchs))
        assert len(ours) == len(torchs)


def test_twice_the_size() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(xnnpack_layers.interpolate(x, scale_factor=2.0), F.interpolate(x, scale_factor=2.0))
    smooth = xnnpack_layers.interpolate(x, scale_factor=3, mode="bilinear")
    assert torch.equal(smooth, F.interpolate(x, scale_factor=3, mode="bilinear"))
    with pytest.raises(BadInput, match="expected twice the size"):
        xnnpack_layers.interpolate(x, scale_factor=3)


def test_a_network_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs, asked = small(), draw(0), []
    torchs = Tensor.mean

    def mean(input: Tensor, *arguments: object, **options: object) -> Tensor:
        asked.append(arguments)
        return torchs(input, *arguments, **options)  # type: ignore[arg-type]

    with Reauthored({Tensor.mean: mean}):
        ours = Rewritten(network.module)(**inputs)["prediction"]
    torch.testing.assert_close(ours, network.module(**inputs)["prediction"], atol=1e-5, rtol=1e-5)
    assert asked  # those inside the group norm
