"""``mdrepro export``: one message and an exit code for whatever is wrong, JSON where a program wants it."""

import json
from pathlib import Path
from typing import Any

import pytest

from mdrepro.cli import app
from mdrepro.export import commands, parity

ENTRY: dict[str, Any] = {
    "component": "unet",
    "precision": "fp16",
    "file": "unet-fp16.tflite",
    "parity": {"psnr_db": 61.2},
    "bytes": 2_500_000,
    "operations": {"CONV_2D": 3, "ADD": 4},
    "seconds": {"converting": 2.0, "writing": 1.4},
    "peak_memory_gb": 1.23,
}


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        app.main(["export", *arguments])
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("mobiledifusion",), "did you mean mobilediffusion or mobilediffusion-lite?"),
        (("mobilediffusion", "--component", "vae"), "text-encoder, unet, decoder"),
        (("mobilediffusion", "--target", "onnx"), "litert, coreml, executorch"),
        (("mobilediffusion", "--decoder", "shapes-vae-lite"), "leave it out"),
        (("shapes-vae",), "must be of a denoiser"),
    ],
)
def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    assert run(*arguments, "--out", str(tmp_path / "out")) == 2
    captured = capsys.readouterr()
    assert (captured.out, says in captured.err) == ("", True), captured.err
    assert not list(tmp_path.rglob("*.tflite"))


def test_networks_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("mobilediffusion-lite", "--component", "decoder", "--out", str(tmp_path))
    assert run(*options, "--resolution", "500") == 2
    assert "a multiple of 8" in capsys.readouterr().err
    assert run(*options, "--precision", "fp8") == 2
    assert "fp32, fp16, int8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_words_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, Any] = {}

    def export(name: str, out: Path, **options: Any) -> dict[str, Any]:
        asked.update(options, name=name, out=out)
        return {"model": name, "files": [ENTRY], "bundles": []}

    monkeypatch.setattr(commands, "export", export)
    arguments = ("shapes-1", "--out", str(tmp_path), "--component", "unet", "--precision", "fp16", "--branches", "2")
    assert run(*arguments, "--target", "litert", "--json") == 0
    assert json.loads(capsys.readouterr().out)["files"] == [ENTRY]
    assert (asked["wanted"], asked["precisions"], asked["branches"]) == (["unet"], ["fp16"], 2)
    assert run(*arguments) == 0
    row = capsys.readouterr().out.splitlines()[1].split()
    assert row == ["unet-fp16.tflite", "2.5", "7", "61.2", "3", "1.2"]


def test_a_missed_gate_is_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missed(*_: Any, **__: Any) -> None:
        parity.gate("unet", "int8", parity.Parity(20.0, 0.5, 1.0, 1))

    monkeypatch.setattr(commands, "export", missed)
    assert run("shapes-1", "--out", str(tmp_path)) == 1
    assert capsys.readouterr().err == (
        "error: unet in int8 is 20.0 dB from PyTorch's, and 35 dB are needed (largest error 0.5 of 1): "
        "it was not written\n"
    )
