"""Outputs of timed runs on a phone against PyTorch's: a recorded conversation with right, wrong and no outputs."""

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mdrepro.core.errors import BadInput
from mdrepro.export import flatbuffer, reference
from mdrepro.latency import adb, android, benchmark_model, bundle, records
from mdrepro.latency.records import Device, Record
from mdrepro.reproduce.tables import device_latency
from tests.support import dialogue
from tests.support.tflite_files import OUTPUT, component, exported

PARTS = (("mobilediffusion", "text-encoder"), ("mobilediffusion", "unet"), ("mobilediffusion-lite", "decoder"))


def off(decibels: float) -> bytes:
    """The output with an error of so many dB below its range of 1."""
    signs = np.where(np.arange(OUTPUT.size) % 2, 1, -1)
    return (OUTPUT.astype(np.float64) + signs * 10 ** (-decibels / 20)).astype(np.float32).tobytes()


def packed(folder: Path, parts: Any = PARTS[1:2], *, precision: str = "fp16") -> Path:
    """A bundle of networks of `mdrepro export`, each with what PyTorch gives."""
    files = []
    for model, part in parts:
        file = exported(folder / model, model=model, component=part, precision=precision, branches=1, resolution=512)
        reference.write(component(), file)
        files.append(file)
    return bundle.write(files, folder / "packed")


def run(place: Path, folder: Path) -> list[Record]:
    """Runs the script against the recorded phone, and reads what came back."""
    (folder / "benchmark_model").write_bytes(b"a tool")
    environment = os.environ | {"PATH": dialogue.path(folder)}
    command = ["sh", "run.sh", str(folder / "benchmark_model")]
    subprocess.run(command, cwd=place, env=environment, check=True, capture_output=True)
    found, failed = bundle.collect(place)
    assert not failed
    return found


def rows(found: list[Record]) -> dict[str, Any]:
    """The row of the phone, as if it were a Galaxy S24: value or reason by column."""
    phone = [one.model_copy(update={"device": Device(name="Samsung Galaxy S24")}) for one in found]
    there = [row for row in device_latency.phone_rows(phone) if row.row == "galaxy-s24"]
    return {row.column: row.reason or row.value for row in there}


def test_right_outputs_fill_the_row_and_wrong_ones_leave_it_empty_with_their_psnr(tmp_path: Path) -> None:
    place = packed(tmp_path, PARTS)
    log = dialogue.install(tmp_path, outputs={"cpu": off(70), "gpu": off(41)})
    right = run(place, tmp_path)
    assert [(one.component, one.accelerator, one.residency) for one in right][:2] == [
        ("text-encoder", "CPU", ""),
        ("text-encoder", "GPU delegate", "310 of 312 nodes"),
    ]
    assert [(round(one.check.psnr_db), one.check.least_db, one.fault) for one in right if one.check] == 3 * [
        (70, 50.0, ""),
        (41, 35.0, ""),
    ]
    assert rows(right) == {
        "text_encoder_ms": 141.253,
        "unet_ms_per_step": 141.253,
        "decoder_ms": 141.253,
        "total_ms": pytest.approx(3 * 141.253),
    }
    asked = log.read_text().splitlines()
    timed = [line for line in asked if "--graph=" in line]
    order = [next(name for name, option in benchmark_model.ACCELERATORS.items() if option in line) for line in timed]
    assert order == ["cpu", "gpu"] * 3, "the control runs first"
    assert all(f"--input_layer_value_files=i0:{adb.REMOTE}/input-0.bin" in line for line in timed)
    assert all(
        "--input_layer_shape=1 " in line and f"--output_filepath={adb.REMOTE}/output.bin" in line for line in timed
    )

    dialogue.install(tmp_path, outputs={"cpu": off(70), "gpu": off(12)})
    wrong = run(place, tmp_path)
    assert [round(one.check.psnr_db) for one in wrong if one.check] == [70, 12] * 3
    gpu = [one for one in wrong if one.accelerator == "GPU delegate"]
    says = "its outputs are at 12.0 dB from PyTorch's, and 35 dB are needed; the CPU's are at 70.0 dB"
    assert {one.fault for one in gpu} == {says}
    columns = ("text_encoder_ms", "unet_ms_per_step", "decoder_ms")
    empty = dict.fromkeys(columns, f"timed on GPU delegate, but {says}")
    assert rows(wrong) == empty | {"total_ms": f"{', '.join(columns)}: {says}"}
    assert rows([one for one in wrong if one not in gpu])["decoder_ms"] == 2950.34, "the control is right"
    one_wrong = [one for one in right if one.component != "unet"] + [one for one in gpu if one.component == "unet"]
    assert rows(one_wrong) == {
        "text_encoder_ms": 141.253,
        "unet_ms_per_step": empty["unet_ms_per_step"],
        "decoder_ms": 141.253,
        "total_ms": f"unet_ms_per_step: {says}",
    }


def test_the_command_says_the_psnr_and_keeps_it_in_the_file(tmp_path: Path, cli_run: Any) -> None:
    place = packed(tmp_path)
    dialogue.install(tmp_path, outputs={"cpu": off(70), "gpu": off(12)})
    found = run(place, tmp_path)
    code, out, error = cli_run("latency", "--collect", place, "--out", tmp_path / "r.json")
    assert (code, error) == (0, "")
    assert "check: mobilediffusion unet, GPU delegate: its outputs are at 12.0 dB from PyTorch's, and 35 dB" in out
    assert "check: mobilediffusion unet, CPU: its outputs are at 70.0 dB from PyTorch's\n" in out
    assert "GPU delegate (310 of 312 nodes)" in out
    assert records.load(tmp_path / "r.json") == found
    assert found[1].check is not None
    assert found[1].check.control_db == pytest.approx(70, abs=0.1)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"cpu": off(70)}, "no output came back"),
        ({"cpu": off(70), "gpu": off(70)[:-4]}, "an output of 16380 bytes: expected 16384"),
        ({"cpu": off(70), "gpu": b"\xff" * OUTPUT.nbytes}, "at -200.0 dB"),  # not a number
        ({"cpu": off(70), "gpu": bytes(OUTPUT.nbytes)}, "at 4.8 dB"),
    ],
)
def test_outputs_that_are_missing_cut_or_not_finite_fail(tmp_path: Path, outputs: dict[str, bytes], says: str) -> None:
    place = packed(tmp_path)
    dialogue.install(tmp_path, outputs=outputs)
    cpu, gpu = run(place, tmp_path)
    assert cpu.fault == ""
    assert says in gpu.fault


def test_an_output_of_an_earlier_run_is_not_taken_for_a_later_one(tmp_path: Path) -> None:
    place = packed(tmp_path)
    dialogue.install(tmp_path, outputs={"cpu": off(70), "gpu": off(41)})
    assert not any(one.fault for one in run(place, tmp_path))
    for name in ("cpu", "gpu"):
        (tmp_path / f"{name}.bin").unlink()  # as of a tool that writes no outputs
    dialogue.install(tmp_path)
    assert all("no output came back" in one.fault for one in run(place, tmp_path))


@pytest.mark.parametrize(("precision", "needed"), [("fp32", 80), ("fp16", 50), ("int8", 35), ("", 35)])
def test_the_cpu_is_held_to_the_export_and_accelerators_to_half_precision(precision: str, needed: float) -> None:
    assert reference.least(precision, "cpu") == needed
    assert reference.least(precision, "gpu") == 35


@pytest.mark.parametrize(
    ("decibels", "fault"), [(41, ""), (12, "its outputs are at 12.0 dB from PyTorch's, and 35 dB")]
)
def test_an_attached_phone_is_checked_too(
    decibels: float, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = exported(tmp_path / "a", model="mobilediffusion", component="unet", precision="fp16", branches=1)
    reference.write(component(), file)
    (tmp_path / "tool").write_bytes(b"a tool")
    log = dialogue.install(tmp_path, outputs={"gpu": off(decibels)})
    monkeypatch.setenv("PATH", dialogue.path(tmp_path))
    one = android.measure(file, tmp_path / "tool", adb.phone(), "gpu")
    assert one.check is not None
    assert one.check.psnr_db == pytest.approx(decibels, abs=0.1)
    assert one.fault.startswith(fault)
    assert bool(one.fault) == bool(fault)
    *_, last = (line for line in log.read_text().splitlines() if " rm -f " in line)
    assert last.endswith(f"{adb.REMOTE}/input-0.bin {adb.REMOTE}/output.bin"), "nothing stays on the phone"


def test_networks_without_a_reference_are_timed_unchecked(tmp_path: Path) -> None:
    file = exported(tmp_path / "a", model="mobilediffusion", component="unet", precision="fp16", branches=1)
    place = bundle.write([file], tmp_path / "packed")
    assert not (place / "checks").exists()
    log = dialogue.install(tmp_path, outputs={"cpu": off(70), "gpu": off(41)})
    assert [(one.check, one.fault) for one in run(place, tmp_path)] == [(None, "")] * 2
    assert "--input_layer" not in log.read_text()


def test_references_of_other_networks_are_refused(tmp_path: Path) -> None:
    file = exported(tmp_path / "a", model="m", component="unet", precision="fp16")
    assert reference.read(file) is None
    reference.write(component(), file)
    known = reference.read(file)
    assert known is not None
    np.testing.assert_array_equal(known.output, OUTPUT)
    np.testing.assert_array_equal(known.inputs["x"], np.float32([0.25]))
    assert flatbuffer.input_order(file) == ["x"]
    place = bundle.write([file], tmp_path / "packed")
    other = exported(tmp_path / "b", model="other", component="unet", precision="fp16")
    reference.path(other).write_bytes(reference.path(file).read_bytes())
    with pytest.raises(BadInput, match=r"is of another file than unet-fp16\.tflite"):
        bundle.write([other], tmp_path / "again")
    reference.path(other).write_bytes(reference.path(file).read_bytes()[:-4])
    with pytest.raises(BadInput, match="no whole safetensors file"):
        bundle.write([other], tmp_path / "again")
    reference.write(component("y"), other)
    with pytest.raises(BadInput, match="has inputs y: expected x"):
        bundle.write([other], tmp_path / "again")
    (place / "checks" / "m-unet-fp16" / bundle.REFERENCE).unlink()
    (place / "results").mkdir()
    (place / "results" / "device.txt").write_text("ro.product.model=Pixel 8\n")
    with pytest.raises(BadInput, match="checks"):
        bundle.collect(place)
