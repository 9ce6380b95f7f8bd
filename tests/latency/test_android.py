"""The way to a phone: what adb and benchmark_model say, from a recorded conversation and by the real client."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.export import flatbuffer
from mdrepro.latency import adb, android, benchmark_model, bundle, file_metadata, imports, records
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.records import Device
from mdrepro.reproduce.tables import device_latency
from tests.support import dialogue
from tests.support.tflite_files import exported


def test_times_are_those_after_the_warm_up() -> None:
    report = benchmark_model.parse(dialogue.CPU)
    times = report.times
    assert (times.runs, times.mean_ms, times.min_ms, times.max_ms) == (12, 2950.34, 2727.568, 3189.954)
    assert (times.first_ms, times.load_ms, times.std_ms, times.median_ms) == (3512.391, 17.187, 109.798, None)
    assert times.ms == 2950.34
    assert report.memory_mb == 51.2
    assert report.delegated is None


def test_newer_editions_tell_the_median_and_the_delegate() -> None:
    report = benchmark_model.parse(dialogue.GPU)
    assert (report.times.runs, report.times.median_ms, report.times.mean_ms) == (25, 141.253, 143.528)
    assert (report.delegated, report.memory_mb, report.notes) == ((310, 312), 73.4102, ())


def test_a_refused_delegate_is_noted() -> None:
    report = benchmark_model.parse(dialogue.REFUSED)
    assert report.notes == ("The graph will not be executed by the delegate.",)


@pytest.mark.parametrize(
    ("printed", "says"),
    [
        ("", "no output"),
        ("STARTING!\nERROR: Could not open 'x.tflite'.\nbye", "Could not open"),
        ("/system/bin/sh: ./benchmark_model: Permission denied\n", "Permission denied"),
        (dialogue.CPU.replace("count=12", "total=12"), "the output was cut"),
    ],
)
def test_output_without_a_result_is_an_error_with_the_tools_own_words(printed: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        benchmark_model.parse(printed)


def test_the_command_says_threads_and_accelerator() -> None:
    assert "--num_threads=2" in benchmark_model.command("b", "m", "cpu", 2)
    assert "--use_gpu=true" in benchmark_model.command("b", "m", "gpu", 2)
    with pytest.raises(BadInput, match=r"^unknown accelerator 'npu'.*; allowed: cpu, gpu$"):
        benchmark_model.command("b", "m", "npu", 2)
    with pytest.raises(BadInput, match="at least 1"):
        benchmark_model.command("b", "m", "cpu", 0)


def test_states_of_devices() -> None:
    printed = "* daemon started\nList of devices attached\nA1\tdevice\nB2\tunauthorized\nC3\tno permissions; see\n\n"
    assert adb.parse_devices(printed) == {"A1": "device", "B2": "unauthorized", "C3": "no permissions"}
    assert adb.parse_devices("List of devices attached\n\n") == {}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    model, tool = tmp_path / "unet.tflite", tmp_path / "benchmark_model"
    model.write_bytes(b"a network")
    tool.write_bytes(b"a tool")
    return model, tool


def test_a_phone_is_measured_and_left_clean(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = dialogue.install(tmp_path)
    monkeypatch.setenv("PATH", dialogue.path(tmp_path))
    record = android.measure(*files, adb.phone(), "gpu")
    assert record.device.model_dump() == {"name": "Google Pixel 8", "system": "Android 14", "chip": "Tensor G3"}
    assert (record.origin, record.accelerator, record.delegated, record.times.ms) == (
        "measured",
        "GPU delegate",
        (310, 312),
        141.253,
    )
    asked = log.read_text().splitlines()
    pushed = [line.split()[-1] for line in asked if " push " in line]
    assert pushed == [f"{adb.REMOTE}/benchmark_model", f"{adb.REMOTE}/unet.tflite"]
    assert asked.index(f"-s 28291FDH shell rm -f {' '.join(pushed)}") > max(
        n for n, line in enumerate(asked) if "--graph" in line
    )


def test_a_refused_delegate_is_never_called_the_gpu(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogue.install(tmp_path, gpu=dialogue.REFUSED)
    monkeypatch.setenv("PATH", dialogue.path(tmp_path))
    record = android.measure(*files, adb.phone(), "gpu")
    assert record.accelerator == "CPU"
    assert "the GPU delegate took no node: this is the CPU's time" in record.notes


def test_what_is_on_the_phone_goes_even_where_the_tool_fails(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = dialogue.install(tmp_path, cpu="ERROR: Failed to load the model\n")
    monkeypatch.setenv("PATH", dialogue.path(tmp_path))
    with pytest.raises(BadInput, match="Failed to load the model"):
        android.measure(*files, adb.phone())
    assert "shell rm -f" in log.read_text().splitlines()[-1]


def test_what_stays_on_the_phone_is_said_on_standard_error_and_leaves_json_whole(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, cli_run: Any
) -> None:
    dialogue.install(tmp_path)
    monkeypatch.setenv("PATH", dialogue.path(tmp_path))
    shell = adb.Phone.shell

    def refusing(phone: adb.Phone, command: Sequence[str], timeout: float = adb.TIMEOUT) -> str:
        if command[0] == "rm":
            raise BadInput("adb shell failed on 28291FDH: Read-only file system")
        return shell(phone, command, timeout)

    monkeypatch.setattr(adb.Phone, "shell", refusing)
    model, tool = files
    code, out, error = cli_run("latency", model, "--on", "android", "--tool", tool, "--json")
    assert (code, error) == (
        0,
        "left on the phone: adb shell failed on 28291FDH: Read-only file system\n",
    )
    assert [one["model"] for one in json.loads(out)["records"]] == ["unet"]


@pytest.mark.parametrize(
    ("listed", "serial", "says"),
    [
        ("A1\\tunauthorized", None, "accept the question about USB debugging"),
        ("A1\\toffline", None, "unplug it"),
        ("A1\\tdevice\\nB2\\tdevice", None, "name one with --serial: A1, B2"),
        ("A1\\tdevice", "B2", "expected one of A1"),
    ],
)
def test_phones_that_cannot_be_used_say_why(
    listed: str, serial: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialogue.install(tmp_path, listed=listed)
    monkeypatch.setenv("PATH", dialogue.path(tmp_path))
    with pytest.raises(BadInput, match=says):
        adb.phone(serial)


def test_without_adb_the_commands_for_later_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotAttempted, match=r"adb is not installed[\s\S]*adb devices[\s\S]*--bundle DIR"):
        adb.phone()


@pytest.mark.skipif(shutil.which("adb") is None, reason="adb is not installed")
def test_the_real_client_and_server_without_a_phone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "5137")  # a server of its own
    try:
        with pytest.raises(NotAttempted, match="no phone is attached"):
            adb.phone()
        with pytest.raises(BadInput, match=r"adb shell failed on nobody: .*device 'nobody' not found"):
            adb.Phone("nobody", shutil.which("adb") or "").shell(["true"])
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)


def test_a_bundle_is_run_by_sh_and_read_back(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tool = files
    place = bundle.write([model], tmp_path / "packed")
    with pytest.raises(BadInput, match=r"run\.sh has not run"):
        bundle.collect(place)
    away = shutil.move(place, tmp_path / "elsewhere")
    dialogue.install(tmp_path)
    environment = os.environ | {"PATH": dialogue.path(tmp_path)}
    subprocess.run(["sh", "run.sh", str(tool)], cwd=away, env=environment, check=True, capture_output=True)
    found, failed = bundle.collect(Path(away))
    assert failed == {}
    assert [(one.origin, one.accelerator, one.times.ms) for one in found] == [
        ("measured", "CPU", 2950.34),
        ("measured", "GPU delegate", 141.253),
    ]
    assert {one.device.name for one in found} == {"Google Pixel 8"}
    packed = json.loads((Path(away) / "manifest.json").read_text())["models"]
    assert {one.model_sha256 for one in found} == {packed[0]["sha256"]}
    (Path(away) / "results" / "unet.gpu.txt").write_text("ERROR: no OpenCL\n")
    found, failed = bundle.collect(Path(away))
    assert len(found) == 1
    assert "no OpenCL" in failed["unet on gpu"]
    (Path(away) / "models" / "unet.tflite").write_bytes(b"another")
    with pytest.raises(BadInput, match="not the file that was packed"):
        bundle.collect(Path(away))


def test_records_of_our_files_say_which_network_ran_and_fill_the_row_of_their_phone(tmp_path: Path) -> None:
    """From export to the table: nothing has to be written into a record by hand."""
    shared = {"precision": "fp16", "resolution": 512}
    unet = exported(tmp_path / "a", model="mobilediffusion", component="unet", branches=1, **shared)
    parts = [
        exported(tmp_path / "a", model="mobilediffusion", component="text-encoder", **shared),
        unet,
        exported(tmp_path / "b", model="mobilediffusion-lite", component="decoder", **shared),
        exported(tmp_path / "c", model="sd15", component="unet", branches=2, **shared),  # of the same file name
    ]
    assert file_metadata.read(unet) == FileMetadata("mobilediffusion", "unet", "fp16", 1, 512)
    assert file_metadata.read(parts[0]).resolution is None
    assert file_metadata.read(parts[3]).batch == 2
    assert file_metadata.read(unet, model="mine", component="decoder") == file_metadata.read(unet)  # the file decides
    place = bundle.write(parts, tmp_path / "packed")
    packed = sorted(file.name for file in (place / "models").iterdir())
    assert packed[-1] == "sd15-unet-fp16-batch2.tflite"
    assert packed[0] == "mobilediffusion-lite-decoder-fp16.tflite"
    dialogue.install(tmp_path)
    environment = os.environ | {"PATH": dialogue.path(tmp_path)}
    tool = tmp_path / "benchmark_model"
    tool.write_bytes(b"a tool")
    subprocess.run(["sh", "run.sh", str(tool)], cwd=place, env=environment, check=True, capture_output=True)
    found, failed = bundle.collect(place)
    assert not failed
    said = {(one.model, one.component, one.precision, one.batch, one.resolution, one.model_sha256) for one in found}
    assert said == {
        (*asdict(file_metadata.read(file)).values(), sha256(place / "models" / name))
        for file, name in (
            (parts[0], "mobilediffusion-text-encoder-fp16.tflite"),
            (unet, "mobilediffusion-unet-fp16.tflite"),
            (parts[2], packed[0]),
            (parts[3], packed[-1]),
        )
    }
    phone = [one.model_copy(update={"device": Device(name="Samsung Galaxy S24")}) for one in found]
    rows = {row.column: row.value for row in device_latency.phone_rows(phone) if row.row == "galaxy-s24"}
    gpu = 141.253
    assert rows == {
        "text_encoder_ms": gpu,
        "unet_ms_per_step": gpu,
        "decoder_ms": gpu,
        "total_ms": pytest.approx(3 * gpu),
    }


def test_a_file_that_says_nothing_has_its_name(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert file_metadata.read(files[0]) == FileMetadata("unet")
    assert file_metadata.read(files[0], "sd15", "unet") == FileMetadata("sd15", "unet")
    with pytest.raises(BadInput, match="allowed: text-encoder, unet"):
        file_metadata.read(files[0], component="vae")
    for number, wrong in enumerate(({"branches": "two"}, {"branches": None}, {"component": "vae"}, {"resolution": []})):
        says = {"model": "m", "component": "unet", "precision": "fp16"} | wrong
        odd = exported(tmp_path / str(number), **says)
        assert file_metadata.read(odd) == FileMetadata(odd.stem)


def test_a_missing_package_is_said_once(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(_: Path) -> None:
        raise NotAttempted("export needs ai_edge_litert")

    monkeypatch.setattr(flatbuffer, "read", missing)
    assert file_metadata.read(files[0]) == FileMetadata("unet")
    assert capsys.readouterr().err == "unet.tflite: its metadata was not read: export needs ai_edge_litert\n"


@pytest.mark.parametrize("model", ["org/model", "../../esc", "my model; rm -rf x", "a (b) $(c) `d`"])
def test_packed_names_are_plain(model: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    place = bundle.write([files[0]], tmp_path / "packed", partial(file_metadata.read, model=model, component="unet"))
    (name,) = [file.name for file in (place / "models").iterdir()]
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*-unet\.tflite", name)
    (told,) = json.loads((place / "manifest.json").read_text())["models"]
    assert (told["name"], told["about"]["model"]) == (name, model)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["benchmark_model", "packed", "unet.tflite"]


def test_bundles_that_did_not_ask_are_read_too(
    tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = bundle.write([files[0]], tmp_path / "packed")
    manifest = json.loads((place / "manifest.json").read_text())
    del manifest["models"][0]["about"]
    (place / "manifest.json").write_text(json.dumps(manifest))
    (place / "results").mkdir()
    (place / "results" / "device.txt").write_text("ro.product.model=Pixel 8\n")
    (place / "results" / "unet.cpu.txt").write_text(dialogue.CPU)
    (place / "results" / "unet.gpu.txt").write_text(dialogue.REFUSED)
    (place / "results" / "unet.cpu.txt").write_text(dialogue.CPU + dialogue.CPU)
    assert "holds 2 runs" in bundle.collect(place)[1]["unet on cpu"]
    (place / "results" / "unet.cpu.txt").write_text(dialogue.CPU)
    found, failed = bundle.collect(place)
    assert [(one.model, one.component, one.accelerator) for one in found] == [("unet", "other", "CPU")]
    assert "took no node" in failed["unet on gpu"]
    manifest["models"][0]["about"] = ["strange"]
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match="no bundle"):
        bundle.collect(place)


def test_a_bundle_without_a_phone_ends_with_one_line(tmp_path: Path, files: tuple[Path, Path]) -> None:
    place = bundle.write([files[0]], tmp_path / "packed")
    done = subprocess.run(["sh", "run.sh", str(tmp_path / "no-tool")], cwd=place, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, f"error: {tmp_path / 'no-tool'}: no such file\n")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "one .tflite or more"),
        (["a.bin"], "expected an existing .tflite"),
        (["x/a.tflite", "y/a.tflite"], "same file name"),
    ],
)
def test_a_bundle_of_other_files_is_refused_and_leaves_nothing(names: list[str], says: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match=says):
        bundle.write([tmp_path / name for name in names], tmp_path / "packed")
    assert not [entry for entry in tmp_path.iterdir() if "packed" in entry.name]


def test_the_command_line_without_a_phone(tmp_path: Path, files: tuple[Path, Path]) -> None:
    call = [sys.executable, "-m", "mdrepro", "latency", str(files[0]), "--on", "android"]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "adb is not installed" in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr


def test_one_bad_file_of_several_leaves_the_others_results(tmp_path: Path, cli_run: Any) -> None:
    good, bad, out = tmp_path / "good.txt", tmp_path / "bad.txt", tmp_path / "out" / "records.json"
    good.write_text(dialogue.CPU)
    bad.write_text("bye")
    named = ["--import", "benchmark-model", "--model", "unet", "--device", "a phone", "--component", "unet"]
    code, printed, _ = cli_run("latency", good, bad, *named, "--out", out)
    assert code == 1
    assert f"no result: {bad}: " in printed
    assert [one.times.runs for one in records.load(out)] == [12]
    assert cli_run("latency", bad, *named)[0] == 2


def test_where_records_go_is_checked_before_anything_is_measured(
    tmp_path: Path, cli_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "read", lambda *_: pytest.fail("measured first"))
    (tmp_path / "file").write_text("x")
    for out in (tmp_path, tmp_path / "file" / "a.json"):
        code, _, error = cli_run("latency", "a.txt", "--import", "benchmark-model", "--out", out)
        assert code == 2
        assert f"--out {out}" in error
