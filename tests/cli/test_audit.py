"""``mdrepro audit fp16``: what is printed, for people and for programs, and what is refused."""

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdrepro.export import commands
from mdrepro.export.components import Component


class Large(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1)
        nn.init.constant_(self.conv.weight, 1e5)

    def forward(self, sample: Tensor) -> dict[str, Tensor]:
        return {"prediction": self.conv(self.norm(sample))}


class Model:
    def component(self, name: str) -> Component:
        def draw(number: int) -> dict[str, Tensor]:
            return {"sample": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(number))}

        return Component(name, Large().eval(), draw, "prediction", {}, {})


def test_an_overflowing_layer_is_named(cli_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands.components, "find", lambda name, resolution: Model())
    code, out, _ = cli_run("audit", "fp16", "shapes-1", "--component", "decoder")
    assert code == 0
    assert "decoder, PSNR against float32: not finite" in out
    (line,) = [line for line in out.splitlines() if "Conv2d" in line]
    assert line.split()[:2] == ["conv", "Conv2d"]
    assert "GroupNorm" not in out
    (entry,) = json.loads(cli_run("audit", "fp16", "shapes-1", "--component", "decoder", "--json")[1])
    assert [one["layer"] for one in entry["findings"]] == ["conv"]
    assert entry["psnr_db"] is entry["findings"][0]["lost_db"] is None


def test_a_model_that_is_none_is_refused(cli_run: Any) -> None:
    code, _, error = cli_run("audit", "fp16", "shapes-0")
    assert (code, "unknown model" in error) == (2, True)
