"""One small network as a Core ML package: its program computed here, types and names, and what can go wrong."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.export import coreml, mil, parity
from mdrepro.export.components import Component
from mdrepro.export.coreml import CoreML
from mdrepro.export.stages import quiet
from mdrepro.latency import file_metadata
from mdrepro.latency.file_metadata import FileMetadata
from tests.support.small_component import SHAPE, Small, component, draw, export, small

Made = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def network() -> Component:
    return small()


@pytest.fixture(scope="module")
def made(network: Component, tmp_path_factory: pytest.TempPathFactory) -> Made:
    out = tmp_path_factory.mktemp("coreml")
    with pytest.MonkeyPatch.context() as patch:
        return out, export(network, out, patch, *CoreML.precisions, target="coreml")


def test_parity_by_precision(made: Made) -> None:
    found = {entry["precision"]: entry["parity"]["psnr_db"] for entry in made[1]["files"]}
    assert found["fp32"] > 105
    assert 55 < found["fp16"] < 90
    for precision in ("int8", "palette8"):
        assert 40 < found[precision] < found["fp16"] - 5
    assert sorted(folder.name for folder in made[0].iterdir()) == sorted(e["file"] for e in made[1]["files"])


def test_packages_say_what_they_are(made: Made) -> None:
    import coremltools as ct

    sizes = {}
    for precision in CoreML.precisions:
        package = made[0] / f"unet-{precision}.mlpackage"
        spec = ct.utils.load_spec(str(package))
        assert {port.name: tuple(port.type.multiArrayType.shape) for port in spec.description.input} == {
            "sample": SHAPE,
            "scale": (1,),
        }
        assert [port.name for port in spec.description.output] == ["prediction"]
        assert spec.description.metadata.license == "Apache-2.0"
        told = mil.read(package).metadata
        assert (told["model"], told["precision"], told["branches"]) == ("small", precision, 2)
        assert file_metadata.read(package) == FileMetadata("small", "unet", precision, 2, 64)
        sizes[precision] = sum(file.stat().st_size for file in (package / "Data").rglob("*.bin"))
    assert sizes["fp32"] > 1.9 * sizes["fp16"] > 2.5 * sizes["int8"]
    assert sizes["palette8"] < 0.7 * sizes["fp16"]


def test_types_are_those_of_the_precision(made: Made) -> None:
    """What the convolutions give, by Core ML's own types."""
    import coremltools as ct

    for precision, wanted in (("fp32", {"FLOAT32"}), ("fp16", {"FLOAT16"}), ("int8", {"FLOAT16"})):
        spec = ct.utils.load_spec(str(made[0] / f"unet-{precision}.mlpackage"))
        block = spec.mlProgram.functions["main"].block_specializations["CoreML7"]
        numbers = {op.outputs[0].type.tensorType.dataType for op in block.operations if op.type == "conv"}
        names = ct.proto.MIL_pb2.DataType
        assert {names.Name(number) for number in numbers} == wanted
    weights = mil.read(made[0] / "unet-int8.mlpackage").operations["constexpr_affine_dequantize"]
    assert weights == mil.read(made[0] / "unet-palette8.mlpackage").operations["constexpr_lut_to_dense"] == 3


class Sines(nn.Module):
    """Sines and cosines of angles up to 1000."""

    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        angles = (scale * 499.7)[:, None] * torch.linspace(0.1, 1, 16)[None]
        return {"prediction": torch.cat([angles.sin(), angles.cos()], -1) * sample[:, :1, 0, 0]}


class Renaming(nn.Module):
    """Its output is a tensor that is only named again."""

    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"prediction": (sample * scale)[:, 0:]}


def test_an_output_may_be_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = export(component(Renaming()), tmp_path, monkeypatch, "fp32", target="coreml")["files"][0]
    assert found["parity"]["psnr_db"] > 120
    assert found["outputs"] == [f"prediction: float32 {SHAPE}"]


def test_angles_stay_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waves = component(Sines())
    found = export(waves, tmp_path, monkeypatch, "fp16", target="coreml")["files"][0]["parity"]
    assert found["psnr_db"] > 60
    monkeypatch.setattr(coreml, "EXACT", ())
    with pytest.raises(parity.GateMissed, match="unet in fp16"):
        export(waves, tmp_path / "halves", monkeypatch, "fp16", target="coreml")
    assert list((tmp_path / "halves").iterdir()) == []


def test_other_weights_miss_the_gate(made: Made, network: Component) -> None:
    torch.manual_seed(1)
    other = component(Small())
    program = mil.Program(made[0] / "unet-fp32.mlpackage")
    for one, near in ((network, True), (other, False)):
        found = parity.measure(one, lambda inputs: program(inputs)["prediction"])
        assert (found.psnr_db > 80) is near


class Renamed(Small):
    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"other": super().forward(sample, scale)["prediction"]}


def test_names_and_operations_are_checked(made: Made, network: Component, monkeypatch: pytest.MonkeyPatch) -> None:
    program = mil.Program(made[0] / "unet-fp32.mlpackage")
    program.check(network)
    with pytest.raises(BadInput, match="expected other"):
        program.check(Component("unet", Renamed(), draw, "other", {}, {}))
    few = Component("unet", Small(), lambda n: draw(n) | {"sample": draw(n)["sample"][:1]}, "prediction", {}, {})
    with pytest.raises(BadInput, match=r"expected .*'sample': \(1, 4, 8, 8\)"):
        program.check(few)
    monkeypatch.setattr(mil, "OPERATIONS", {name: f for name, f in mil.OPERATIONS.items() if name != "silu"})
    with pytest.raises(BadInput, match="not known here: silu"):
        program.check(network)


def test_broken_packages_are_refused(made: Made, tmp_path: Path) -> None:
    whole = made[0] / "unet-fp16.mlpackage"
    inside = Path("Data") / "com.apple.CoreML"
    for part, size in ((inside / "model.mlmodel", 1000), (inside / "weights" / "weight.bin", 100)):
        broken = tmp_path / f"{size}.mlpackage"
        shutil.copytree(whole, broken)
        with open(broken / part, "r+b") as file:
            file.truncate(size)
        with quiet(), pytest.raises(BadInput, match=r"export it again|export --target coreml"):
            mil.Program(broken)
    shutil.copytree(whole, tmp_path / "gone.mlpackage")
    shutil.rmtree(tmp_path / "gone.mlpackage" / inside / "weights")
    for package in (tmp_path / "gone.mlpackage", tmp_path, tmp_path / "nothing"):
        with quiet(), pytest.raises(BadInput, match="export it again"):
            mil.Program(package)


class Strange(nn.Module):
    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"prediction": torch.linalg.qr(sample)[0] * scale}


def test_an_operation_that_cannot_be_converted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"unet cannot be converted to Core ML: .*qr"):
        export(component(Strange()), tmp_path, monkeypatch, "fp32", target="coreml")
    with pytest.raises(BadInput, match="fp32, fp16, int8, palette8"):
        export(component(Strange()), tmp_path, monkeypatch, "int4", target="coreml")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(network: Component, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(NotAttempted, match=r"coremltools, .*: pip install mdrepro\[export\]"):
        export(network, tmp_path, monkeypatch, "fp32", target="coreml")
