"""A network of a few thousand weights with every kind of layer, as a component, and a model that has it alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mdrepro.export import commands, components
from mdrepro.export.components import Component

SHAPE = (2, 4, 8, 8)


class Small(nn.Module):
    """Convolutions, a group norm, attention between pixels, a layer norm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(4, 64, 3, padding=1), nn.Conv2d(64, 4, 3, padding=1)
        self.norm, self.layer_norm, self.linear = nn.GroupNorm(4, 64), nn.LayerNorm(64), nn.Linear(64, 64)

    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        x_bchw = F.silu(self.norm(self.first(sample))) * scale[:, None, None, None]
        x_bnc = self.linear(self.layer_norm(x_bchw.flatten(2).transpose(1, 2)))
        heads = x_bnc.unflatten(-1, (2, 32)).transpose(1, 2)
        x_bnc = x_bnc + F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
        return {"prediction": self.last(x_bnc.transpose(1, 2).reshape(x_bchw.shape) + x_bchw)}


def draw(number: int) -> dict[str, Tensor]:
    """Its inputs."""
    random = torch.Generator().manual_seed(number)
    return {"sample": torch.randn(SHAPE, generator=random), "scale": torch.rand(1, generator=random) + 1}


def component(module: nn.Module) -> Component:
    """A module of those inputs as a component."""
    return Component("unet", module.eval(), draw, "prediction", {"width": 64}, {"branches": 2})


def small() -> Component:
    """The component, every weight drawn, the gains of norms too."""
    torch.manual_seed(0)
    module = Small()
    for norm in (module.norm, module.layer_norm):
        nn.init.normal_(norm.weight, 1)
        nn.init.normal_(norm.bias)
    return component(module)


class Fake:
    """A model of one component."""

    name, weights, licence, resolution, pipeline = "small", "drawn", "Apache-2.0", 64, None

    def __init__(self, network: Component) -> None:
        self._network = network

    def component(self, name: str, branches: int | None) -> Component:
        return self._network


def export(
    network: Component,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    *precisions: str,
    target: str = "litert",
    plain: bool = False,
) -> dict[str, Any]:
    """`commands.export` of it."""
    monkeypatch.setattr(components, "find", lambda *_: Fake(network))
    return commands.export("small", out, target=target, wanted=["unet"], precisions=precisions, threads=1, plain=plain)
