"""One small network as a LiteRT file: parity, names, metadata, and every way in which it can go wrong."""

import errno
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.export import commands, components, flatbuffer, litert, parity, reference
from mdrepro.export.components import Component
from mdrepro.export.litert import LiteRT
from mdrepro.export.runner import LiteRTNetwork
from mdrepro.export.stages import quiet
from tests.support.small_component import SHAPE, Small, component, draw, export, small


@pytest.fixture(scope="module")
def network() -> Component:
    return small()


@pytest.fixture(scope="module")
def made(network: Component, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("made") / "new"
    with pytest.MonkeyPatch.context() as patch:
        return out, export(network, out, patch, *LiteRT.precisions)


def test_parity_falls_with_precision_and_passes_the_gate(made: tuple[Path, dict[str, Any]]) -> None:
    entries = made[1]["files"]
    assert [entry["precision"] for entry in entries] == list(LiteRT.precisions)
    fp32, fp16, int8, dynamic = (entry["parity"]["psnr_db"] for entry in entries)
    assert fp32 > 110
    assert 60 < fp16 < 100
    assert 45 < int8 < fp16 - 10
    assert 38 < dynamic < int8 - 3  # inputs are rounded too
    files = [made[0] / entry["file"] for entry in entries]
    assert sorted(made[0].iterdir()) == sorted([*files, *map(reference.path, files)])


def test_what_phones_are_held_to_lies_beside_each_file(network: Component, made: tuple[Path, dict[str, Any]]) -> None:
    """The runtime here reaches the export's PSNR on it, with inputs in the interpreter's own order."""
    from ai_edge_litert.interpreter import Interpreter

    for precision in LiteRT.precisions:
        file = made[0] / f"unet-{precision}.tflite"
        known = reference.read(file)
        assert known is not None
        np.testing.assert_array_equal(known.output, network.reference(1).numpy())
        with quiet():
            interpreter = Interpreter(str(file))
            interpreter.allocate_tensors()
        for name, detail in zip(flatbuffer.input_order(file), interpreter.get_input_details(), strict=True):
            interpreter.set_tensor(detail["index"], known.inputs[name])
        interpreter.invoke()
        raw = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tobytes()
        assert known.psnr(raw) > reference.least(precision, "cpu")
        assert known.psnr(raw[4:] + raw[:4]) < reference.least(precision, "gpu")


def test_files_say_what_they_are(made: tuple[Path, dict[str, Any]]) -> None:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_litert.tools import flatbuffer_utils

    for precision in LiteRT.precisions:
        file = made[0] / f"unet-{precision}.tflite"
        found = flatbuffer.read(file)
        assert [str(port) for port in found.inputs] == [f"sample: float32 {SHAPE}", "scale: float32 (1,)"]
        assert [str(port) for port in found.outputs] == [f"prediction: float32 {SHAPE}"]
        told = found.metadata
        assert (told["model"], told["component"], told["precision"]) == ("small", "unet", precision)
        assert {"licence", "commit", "config", "weights", "versions", "resolution", "branches"} <= set(told)
        with quiet():
            signatures = Interpreter(str(file)).get_signature_list()
        assert list(signatures.values()) == [{"inputs": ["sample", "scale"], "outputs": ["prediction"]}]
        theirs = flatbuffer_utils.read_model(str(file))
        names = [entry.name for entry in theirs.metadata]
        assert flatbuffer.METADATA.encode() in names
        operators = sum(len(graph.operators) for graph in theirs.subgraphs)
        assert operators == sum(found.operations.values())


def test_feature_maps_keep_their_layout(made: tuple[Path, dict[str, Any]]) -> None:
    """Turned are the input, the output, and queries, values and result of attention."""
    operations = made[1]["files"][0]["operations"]
    assert operations["TRANSPOSE"] == 5
    assert operations["BATCH_MATMUL"] == 2
    assert "DEQUANTIZE" not in operations
    assert made[1]["files"][1]["operations"]["DEQUANTIZE"] == made[1]["files"][2]["operations"]["DEQUANTIZE"] == 3
    assert "DEQUANTIZE" not in made[1]["files"][3]["operations"]  # weights are multiplied as they are


@pytest.mark.parametrize("precision", LiteRT.precisions)
def test_xnnpack_takes_the_whole_network(made: tuple[Path, dict[str, Any]], precision: str) -> None:
    """Whatever it leaves to others splits the network there: a group's mean that is repeated to its channels did."""
    from ai_edge_litert.interpreter import Interpreter

    with quiet():
        network = Interpreter(str(made[0] / f"unet-{precision}.tflite"), num_threads=1)
        network.allocate_tensors()
    parts = [one["op_name"] for one in network._get_ops_details()].count("DELEGATE")
    assert parts == 1
    assert "BROADCAST_TO" not in flatbuffer.read(made[0] / f"unet-{precision}.tflite").operations


def test_written_again_there_are_fewer_operations_and_the_same_numbers(
    network: Component, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = export(network, tmp_path, monkeypatch, "fp32", plain=True)["files"][0]
    assert plain["parity"]["psnr_db"] > 110
    again = made[1]["files"][0]["operations"]
    assert sum(again.values()) < 0.9 * sum(plain["operations"].values())
    assert plain["operations"]["TRANSPOSE"] > again["TRANSPOSE"]
    said = [flatbuffer.read(place / "unet-fp32.tflite").metadata["layers"] for place in (tmp_path, made[0])]
    assert said == ["the converter's", "written again"]


def test_torch_computes_once_for_all_precisions(network: Component) -> None:
    asked: list[Any] = []

    class Counted(nn.Module):
        def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
            asked.append(sample)
            return {"prediction": sample * scale}

    counted = component(Counted())
    for _ in range(3):
        found = parity.measure(counted, lambda inputs: inputs["sample"] * inputs["scale"])
        assert (found.psnr_db, found.inputs) == (parity.CAP, parity.DRAWS)
    assert len(asked) == parity.DRAWS
    assert parity.measure(network, lambda inputs: inputs["sample"]).psnr_db < 30  # another component's are its own


def test_weights_shrink(network: Component, tmp_path: Path) -> None:
    """On a network large enough that weights are most of it, the file has their bytes."""
    for precision, each in LiteRT.precisions.items():
        wide = Component("unet", nn.Linear(1000, 300, device="meta"), draw, "y", {}, {})
        needed = LiteRT().check(wide, precision)
        assert needed >= 300_000 * (4 + each)


def test_channels_are_scaled_alone_in_weights_of_any_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quantizer takes weights of more than 32 MB a part at a time, which has to be right too."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 2400, 3, bias=False), nn.Conv2d(2400, 400, 3, bias=False)
            for number, conv in enumerate(self.conv):
                self.add_module(str(number), conv)
            self.conv[1].weight.data *= torch.logspace(-3, 0, 400)[:, None, None, None]

        def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
            return {"prediction": self.conv[1](self.conv[0](sample)) * scale}

    wide = component(Wide())
    assert wide.module.get_parameter("1.weight").nbytes > 2**25
    entry = export(wide, tmp_path, monkeypatch, "int8")["files"][0]
    with quiet():
        network = LiteRTNetwork(tmp_path / entry["file"], 1)
    wanted, inputs = wide.reference(1), {name: value.numpy() for name, value in wide.draw(1).items()}
    found = torch.from_numpy(network(**inputs)["prediction"])
    far = (found - wanted).square().mean((0, 2, 3)).sqrt() / wanted.square().mean((0, 2, 3)).sqrt()
    assert far.max() < 0.02  # each channel to its own range, the smallest too


def test_over_two_gigabytes_in_fp32_is_refused() -> None:
    huge = Component("unet", nn.Linear(25_000, 25_000, device="meta"), draw, "y", {}, {})
    with pytest.raises(BadInput, match=r"over 2 GB.*expected fp16, int8, int8-dynamic"):
        LiteRT().check(huge, "fp32")
    assert LiteRT().check(huge, "fp16") > 4 * 625e6


def test_a_file_cut_off_is_refused(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    whole = (made[0] / "unet-fp32.tflite").read_bytes()
    short = tmp_path / "short.tflite"
    for size in (0, 5, 100, 2000, len(whole) // 2, len(whole) - 1):
        short.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"cut off|no \.tflite"):
            LiteRTNetwork(short)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.tflite"
    for content in (b"GGUF" * 100, b"\0\0\0\0TFL3" + b"\xff" * 100, b"\x10\0\0\0TFL3" + bytes(100)):
        foreign.write_bytes(content)
        with pytest.raises(BadInput, match="foreign"):
            LiteRTNetwork(foreign)
    with pytest.raises(BadInput, match="cannot be read"):
        LiteRTNetwork(tmp_path / "nothing.tflite")
    with pytest.raises(BadInput, match="cannot be read"):
        LiteRTNetwork(tmp_path)


def test_wrong_inputs_are_named(made: tuple[Path, dict[str, Any]]) -> None:
    with quiet():
        network = LiteRTNetwork(made[0] / "unet-fp32.tflite", 1)
    good = {name: value.numpy() for name, value in draw(0).items()}
    assert network(**good)["prediction"].shape == SHAPE
    wrong: list[dict[str, Any]] = [
        {"sample": good["sample"]},
        good | {"more": good["scale"]},
        good | {"sample": good["sample"][:1]},
        good | {"sample": good["sample"].astype(np.float64)},
    ]
    for inputs in wrong:
        with pytest.raises(BadInput, match=r"expected sample: float32 \(2, 4, 8, 8\); scale: float32 \(1,\)"):
            network(**inputs)


def test_a_file_with_an_operation_that_nobody_has(made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    from ai_edge_litert import schema_py_generated as schema

    def change(model: Any) -> None:
        code = model.operatorCodes[model.subgraphs[0].operators[3].opcodeIndex]
        code.builtinCode, code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM, schema.BuiltinOperator.CUSTOM
        code.customCode = "Mystery"

    strange = tmp_path / "strange.tflite"
    flatbuffer.rewrite(made[0] / "unet-fp32.tflite", strange, {"model": "m", "component": "c"}, change)
    with quiet(), pytest.raises(BadInput, match=r"cannot be run here .*Mystery"):
        LiteRTNetwork(strange)


class Strange(nn.Module):
    def forward(self, sample: Tensor, scale: Tensor) -> dict[str, Tensor]:
        return {"prediction": torch.linalg.qr(sample)[0] * scale}


def test_an_operation_that_cannot_be_converted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match=r"unet cannot be converted to LiteRT: .*qr"):
        export(component(Strange()), tmp_path / "out", monkeypatch, "fp32")
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_that_the_quantizer_cannot_take_leave_nothing(
    network: Component, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ai_edge_quantizer import quantizer

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("operand has more dimensions\nthan allowed")

    _copying(made[0], monkeypatch)
    monkeypatch.setattr(quantizer.Quantizer, "quantize", broken)
    with pytest.raises(BadInput, match=r"cannot be made int8, take another precision: operand has more dimensions$"):
        export(network, tmp_path / "out", monkeypatch, "fp32", "int8")
    assert list((tmp_path / "out").iterdir()) == []


def _copying(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Conversion is a copy of the file that is there."""
    monkeypatch.setattr(litert, "_convert", lambda _, target, *__: shutil.copyfile(made / "unet-fp32.tflite", target))


def test_a_missed_gate_leaves_nothing(
    network: Component, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _copying(made[0], monkeypatch)
    monkeypatch.setitem(parity.GATES, "int8", 200.1)  # type: ignore[arg-type]
    with pytest.raises(parity.GateMissed, match="unet in int8"):
        export(network, tmp_path / "out", monkeypatch, "fp32", "int8")
    assert list((tmp_path / "out").iterdir()) == []
    other = Small().eval()
    with pytest.raises(parity.GateMissed, match="unet in fp32"):
        export(component(other), tmp_path / "out", monkeypatch, "fp32")
    assert list((tmp_path / "out").iterdir()) == []


def test_older_files_are_replaced_whole(
    network: Component, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _copying(made[0], monkeypatch)
    old = tmp_path / "unet-fp32.tflite"
    old.write_text("old")
    export(network, tmp_path, monkeypatch, "fp32")
    assert flatbuffer.read(old).metadata["model"] == "small"
    assert set(tmp_path.iterdir()) == {old, reference.path(old)}


def test_a_full_disk_is_said_before_and_meanwhile(
    network: Component, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _copying(made[0], monkeypatch)
    real = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: real._replace(free=1000))
        with pytest.raises(BadInput, match=r"0\.00 GB free"):
            export(network, tmp_path / "out", monkeypatch, "fp32")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(flatbuffer, "_write", full)
    with pytest.raises(BadInput, match="no space left"):
        export(network, tmp_path / "out", monkeypatch, "fp32")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="choose another folder"):
        export(network, tmp_path / "file", monkeypatch, "fp32")


@pytest.mark.parametrize("module", ["litert_torch", "ai_edge_litert.interpreter", "ai_edge_quantizer.quantizer"])
def test_a_missing_package_is_named(
    module: str, network: Component, made: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module != "litert_torch":
        _copying(made[0], monkeypatch)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NotAttempted, match=rf"{module.split('.')[0]}, .*: pip install mdrepro\[export\]"):
        export(network, tmp_path / "out", monkeypatch, "fp32", "fp16")
    assert list((tmp_path / "out").iterdir()) == []


def test_bad_arguments_are_named_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(components, "find", lambda *_: pytest.fail("loaded"))
    for options, says in (
        ({"target": "onnx"}, "litert, coreml, executorch"),
        ({"wanted": ["vae"]}, "text-encoder, unet, decoder"),
        (
            {"wanted": ["unet"], "precisions": ["fp32", "fp8"]},
            "unknown precision 'fp8'.*: fp32, fp16, int8, int8-dynamic",
        ),
        ({"target": "coreml", "precisions": ["int4"]}, "unknown precision 'int4'.*: fp32, fp16, int8, palette8"),
        ({"wanted": ["unet"], "precisions": []}, "expected one or more of fp32, fp16, int8, int8-dynamic"),
    ):
        with pytest.raises(BadInput, match=says):
            commands.export("small", tmp_path / "out", **options)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_quiet_keeps_what_c_writes(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet():
        os.write(2, b"from C")
        print("from Python")
    print("afterwards")
    assert capfd.readouterr() == ("afterwards\n", "")
