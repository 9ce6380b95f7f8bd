"""ExecuTorch files: one for all components of a model, parity of each in it, pieces, metadata, and damaged files."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.export import commands, components, parity, pte
from mdrepro.export.components import COMPONENTS, Component
from mdrepro.export.executorch import METHODS, ExecuTorch, ExecuTorchMethod
from tests.support.small_component import SHAPE, Fake, component, draw, export, small


class Convolution(nn.Module):
    """Another network of the same inputs, which is converted in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"prediction": self.conv(sample) * scale}


class Whole(Fake):
    """A model of three components."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.networks = {"unet": small()}
        for name in ("text-encoder", "decoder"):
            self.networks[name] = dataclasses.replace(component(Convolution()), name=name)

    def component(self, name: str, branches: int | None = None) -> Component:
        return self.networks[name]


@pytest.fixture(scope="module")
def model() -> Whole:
    return Whole()


@pytest.fixture(scope="module")
def whole(model: Whole, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(components, "find", lambda *_: model)
        return out, commands.export("small", out, target="executorch", threads=1)


def test_a_model_is_one_file_whose_methods_are_pytorchs(whole: tuple[Path, dict[str, Any]], model: Whole) -> None:
    file = whole[0] / "model-fp32.pte"
    assert list(whole[0].iterdir()) == [file]
    assert [entry["component"] for entry in whole[1]["files"]] == [*COMPONENTS]
    assert {entry["file"] for entry in whole[1]["files"]} == {file.name}
    for name, method in METHODS.items():
        run, inputs = ExecuTorchMethod(file, method, 1), {key: value.numpy() for key, value in draw(7).items()}
        expected = model.component(name).reference(7).numpy()
        assert parity.compare([expected], [run(**dict(reversed(inputs.items())))]).psnr_db > 110
        assert (run.metadata["component"], run.metadata["inputs"]) == (name, ["sample", "scale"])
        with pytest.raises(BadInput, match="expected sample, scale"):
            run(sample=inputs["sample"])


def test_xnnpack_takes_each_network_in_one_piece(whole: tuple[Path, dict[str, Any]]) -> None:
    assert whole[1]["files"][0]["operations"] == {"XNNPACK": 3}
    assert whole[1]["files"][0]["outputs"] == [f"{method}: float32 {SHAPE}" for method in METHODS.values()]


def test_products_in_8_bits_pass_the_parity_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    entry = export(component(Convolution()), tmp_path, monkeypatch, "int8-dynamic", target="executorch")["files"][0]
    assert 35 < entry["parity"]["psnr_db"] < 70  # inputs and weights are rounded
    assert entry["operations"] == {"XNNPACK": 1}


def test_damaged_files_are_refused(whole: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    content = (whole[0] / "model-fp32.pte").read_bytes()
    damaged = tmp_path / "damaged.pte"
    for size in (0, 7, 40, 2000, len(content) - 1):
        damaged.write_bytes(content[:size])
        with pytest.raises(BadInput, match=r"cut off|no \.pte"):
            ExecuTorchMethod(damaged, "denoise")
    damaged.write_bytes(content[:64] + b"\xff" * 400 + content[464:])
    with pytest.raises(BadInput, match=r"damaged\.pte"):
        ExecuTorch().describe(damaged)
    with pytest.raises(BadInput, match="cannot be read"):
        pte.read(tmp_path / "nothing.pte")
    with pytest.raises(BadInput, match="no method draw: expected one of decode, denoise, encode"):
        ExecuTorchMethod(whole[0] / "model-fp32.pte", "draw")


class Strange(nn.Module):
    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"prediction": sample[:, : int(scale.sum())]}


def test_a_network_that_cannot_be_converted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="unet cannot be converted to ExecuTorch"):
        export(component(Strange()), tmp_path / "out", monkeypatch, "fp32", target="executorch")
    monkeypatch.setitem(sys.modules, "executorch.exir.passes.constant_prop_pass", None)
    with pytest.raises(NotAttempted, match=r"needs executorch, .*: pip install mdrepro\[export\]"):
        export(component(Convolution()), tmp_path / "out", monkeypatch, "fp32", target="executorch")
    assert list((tmp_path / "out").iterdir()) == []
