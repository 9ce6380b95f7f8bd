"""Exported files that are kept: another key for every input, whole or not at all, errors that say what is allowed."""

import json
from pathlib import Path
from typing import Any

import pytest

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import sha256
from mdrepro.reproduce.tables import host_latency
from mdrepro.reproduce.workflow import exported
from mdrepro.reproduce.workflow.exported import Piece
from tests.support.killed import between_two_renames

DECODER = Piece("snapfusion-decoder")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files are kept in this test."""
    monkeypatch.setattr(exported, "runs", lambda: tmp_path)
    return tmp_path / "exported"


@pytest.fixture
def exports(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was exported, by a stand-in that writes a few bytes."""
    asked: list[dict[str, Any]] = []

    def export(wanted: dict[str, Any]) -> dict[str, Any]:
        asked.append(wanted)
        file = Path(wanted["out"]) / f"{wanted['component']}-{wanted['precision']}.tflite"
        file.write_bytes(f"network {len(asked)}".encode())
        return {"file": file.name, "sha256": sha256(file), "bytes": 9, "parity": {"psnr_db": 75.0}, "seconds": {}}

    monkeypatch.setattr(exported, "_export", export)
    return asked


def kept_in(piece: Piece, resolution: int) -> Path:
    return exported.folder(piece, exported.made_of(piece, "fp16", resolution))


def test_a_file_is_made_once(exports: list[dict[str, Any]], home: Path) -> None:
    first, second = exported.get(DECODER, "fp16", 64), exported.get(DECODER, "fp16", 64)
    assert len(exports) == 1
    assert first == second
    assert first.psnr_db == 75.0
    assert first.file.parent.parent == home
    assert exports[0] | {"out": ""} == {
        "model": "snapfusion",
        "component": "decoder",
        "precision": "fp16",
        "resolution": 64,
        "branches": None,
        "out": "",
    }


def test_a_kill_between_two_renames_loses_no_file(exports: list[dict[str, Any]]) -> None:
    first = exported.get(DECODER, "fp16", 64)
    between_two_renames(first.file.parent)
    assert exported.get(DECODER, "fp16", 64) == first
    assert len(exports) == 1


def test_whatever_a_file_is_made_of_makes_another(
    exports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported.get(DECODER, "fp16", 64)
    exported.get(DECODER, "fp32", 64)
    exported.get(DECODER, "fp16", 128)
    exported.get(Piece("sd-decoder"), "fp16", 64)
    assert len(exports) == 4
    assert len({kept_in(Piece("sd15", branches), 64) for branches in (1, 2)}) == 2
    with monkeypatch.context() as patch:
        patch.setattr(exported, "installed", lambda _: {"litert-torch": "0"})
        assert exported.find(DECODER, "fp16", 64) is None
    with monkeypatch.context() as patch:
        patch.setattr(exported, "code", lambda *_: {"mdrepro/export/reauthor.py": "0"})
        assert exported.find(DECODER, "fp16", 64) is None
    assert exported.find(DECODER, "fp16", 64) is not None


def test_the_text_encoder_is_one_for_all_resolutions() -> None:
    text = Piece("text-encoder")
    assert kept_in(text, 64) == kept_in(text, 512)


def test_the_key_holds_the_code_and_the_converters() -> None:
    made = exported.made_of(DECODER, "fp16", 512)
    for name in (
        "export/litert",
        "export/reauthor",
        "export/components",
        "models/mobilediffusion/vae",
        "models/mobilediffusion/unet",
        "models/presets",
    ):
        assert f"mdrepro/{name}.py" in made["code"]
    assert not [
        name for name in made["code"] if name.startswith("mdrepro/training/r") and "__init__" not in name
    ]  # recipes are not in it
    assert made["versions"]["torch"] not in ("", "none")
    assert {"litert-torch", "ai-edge-litert", "ai-edge-quantizer", "diffusers", "transformers"} <= set(made["versions"])


def test_a_damaged_or_half_written_file_is_never_used(exports: list[dict[str, Any]], home: Path) -> None:
    kept = exported.get(DECODER, "fp16", 64)
    kept.file.write_bytes(b"netw")
    assert exported.find(DECODER, "fp16", 64) is None
    again = exported.get(DECODER, "fp16", 64)
    assert again.file.read_bytes() == b"network 2"
    (again.file.parent / exported.REPORT).unlink()
    assert exported.find(DECODER, "fp16", 64) is None
    exported.get(DECODER, "fp16", 64)
    report = kept.file.parent / exported.REPORT
    said = json.loads(report.read_text())
    said["made_of"]["resolution"] = 128
    report.write_text(json.dumps(said))
    assert exported.find(DECODER, "fp16", 64) is None


def test_an_export_that_breaks_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(wanted: dict[str, Any]) -> dict[str, Any]:
        (Path(wanted["out"]) / "decoder-fp16.tflite").write_bytes(b"half")
        raise RuntimeError("no memory")

    monkeypatch.setattr(exported, "_export", half)
    with pytest.raises(RuntimeError, match="no memory"):
        exported.get(DECODER, "fp16", 64)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (
            'print(\'{"kind": "BadInput", "error": "allowed are 64"}\')',
            BadInput,
            "sd15 unet cannot be exported: allowed",
        ),
        ('print(\'{"kind": "NotAttempted", "error": "pip install"}\')', NotAttempted, "pip install"),
        ('print(\'{"kind": "GateMissed", "error": "12 dB"}\')', RuntimeError, "12 dB"),
        ("raise ValueError('torch broke')", RuntimeError, "ValueError: torch broke"),
        ("import os; os.kill(os.getpid(), 9)", RuntimeError, "killed by signal 9; memory may have run out"),
    ],
)
def test_what_the_process_says_is_passed_on(
    answer: str, kind: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake_export.py").write_text(answer)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(exported, "__name__", "fake_export")
    with pytest.raises(kind, match=words):
        exported._export({"model": "sd15", "component": "unet"})


def test_what_is_not_allowed_is_named() -> None:
    with pytest.raises(BadInput, match="allowed: text-encoder, sd15"):
        Piece("sdxl")
    with pytest.raises(BadInput, match="it must be 1 or 2"):
        Piece("sd15", 3)
    with pytest.raises(BadInput, match=r"it must be 1$"):
        Piece("sd-decoder", 2)
    with pytest.raises(BadInput, match="allowed: fp32, fp16, int8, int8-dynamic"):
        exported.made_of(DECODER, "int4", 64)


def test_tables_of_latencies_notice_a_change_of_the_converter() -> None:
    from mdrepro.reproduce.workflow.fingerprint import code

    seen = code(["from mdrepro.reproduce.tables import device_latency"])
    assert set(code([exported.SOURCE], exported.CHECKPOINTS)) <= set(seen)


def test_every_precision_has_its_arithmetic_in_words() -> None:
    from mdrepro.export.litert import LiteRT

    assert list(exported.ARITHMETIC) == list(LiteRT.precisions)


@pytest.mark.slow
def test_a_decoder_is_exported_kept_and_measured(home: Path) -> None:
    bounds: dict[str, Any] = {"threads": 1, "runs": 2, "seconds": 0.0, "most": 5.0, "rounds": 2}
    wanted = host_latency.pieces(["snapfusion-decoder", "mobilediffusion-decoder-lite"])
    found = host_latency.measure(wanted, precision="fp16", resolution=64, **bounds)
    for piece, one in found.items():
        assert len(one.times_ms) >= 4
        assert one.kept.psnr_db >= 50
        assert one.record.model_sha256 == sha256(one.kept.file)
        assert one.kept.file.stat().st_size == pytest.approx(2 * one.cost.params, rel=0.1)
        assert exported.find(piece, "fp16", 64) == one.kept
        assert one.state["gmacs"] > 0
    with pytest.raises(BadInput, match="a multiple of 8"):
        exported.get(wanted[0], "fp16", 60)
