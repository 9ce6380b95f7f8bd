"""What users meet ends with one line that names the path and what to do, with exit code 2, 1 for verify, or 130."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from mdrepro.core import faults
from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_json
from mdrepro.reproduce import doctor
from mdrepro.reproduce.workflow import execute, verify
from tests.support import tiny_pipeline as tiny
from tests.support.checkout import TABLE
from tests.support.refusals import refused


def raising(error: BaseException) -> Callable[..., Any]:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    return raises


def full(*_: Any) -> None:
    path = Path("/dev/full")
    with open(path, "w") as file:
        file.write("x")


SYSTEM = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), "no space left"),
    "full, by safetensors": (SafetensorError("I/O error: No space left on device (os error 28)"), "no space left"),
    "full, by torch": (RuntimeError("write failed: [Errno 28] No space left on device"), "no space left"),
    "quota": (OSError(errno.EDQUOT, "Disk quota exceeded", "/home/a/b"), "/home/a/b: your disk quota"),
    "read-only": (OSError(errno.EROFS, "Read-only file system", "/mnt/x"), "/mnt/x: this file system is read-only"),
    "gone": (FileNotFoundError(errno.ENOENT, "No such file", "/a/b"), "/a/b: no such file or folder; check the path"),
    "denied": (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "/a/b: permission denied"),
    "file for a folder": (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b"), "/a/b: a file is where"),
    "folder for a file": (IsADirectoryError(errno.EISDIR, "Is a directory", "/a/b"), "/a/b: a folder is where"),
    "memory": (MemoryError(), "out of memory"),
    "bytes": (OSError(errno.ENAMETOOLONG, "File name too long", b"/a/\xff"), "the name is too long"),
    "other": (OSError(errno.ENXIO, "No such device or address", "/a"), "/a: No such device or address"),
    "no number": (OSError("image file is truncated"), "image file is truncated"),
    "json": (json.JSONDecodeError("Expecting value", "", 0), "restore it"),
}


@pytest.mark.parametrize("case", SYSTEM)
def test_errors_of_the_system_end_with_one_line(case: str, cli_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    error, says = SYSTEM[case]
    monkeypatch.setattr(doctor, "report", raising(error))
    assert says in refused(cli_run, "doctor")
    monkeypatch.setattr(verify, "verify", raising(error))
    assert says in refused(cli_run, "verify", code=1)
    code, _, shown = cli_run("doctor", "--debug")
    assert code == 2
    assert "Traceback" in shown
    assert says in shown.splitlines()[-1]


def test_a_full_disk_is_named_by_the_path_that_was_written(cli_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """``/dev/full`` is always full, and an error of writing names no path."""
    with pytest.raises(OSError, match="No space left") as error:
        full()
    assert error.value.filename is None
    monkeypatch.setattr("mdrepro.core.files.flush", full)
    monkeypatch.setattr(doctor, "report", lambda: write_json(Path("/tmp/never-there.json"), {}))
    assert "/never-there.json" in refused(cli_run, "doctor")


@pytest.mark.parametrize("error", [ZeroDivisionError("a fault"), RuntimeError("a fault"), KeyError("a fault")])
def test_faults_of_the_program_keep_their_traceback(
    error: Exception, cli_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "report", raising(error))
    with pytest.raises(type(error), match="a fault"):
        cli_run("doctor")


def test_ctrl_c_ends_with_130(cli_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "report", raising(KeyboardInterrupt()))
    assert cli_run("doctor")[0] == 130
    monkeypatch.setattr("mdrepro.cli.app.app", raising(KeyboardInterrupt()))
    assert cli_run("doctor")[0] == 130


def test_a_full_disk_is_said_also_from_notebooks_and_snakemake(
    workspace: Path, cli_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = {"bad_input": False, "message": "cell [3] failed:\n OSError: [Errno 28] No space left on device"}
    monkeypatch.setattr(execute, "execute", lambda *_, **__: [TABLE])
    monkeypatch.setattr(execute, "failure", lambda *_: trouble)
    code, _, error = cli_run("reproduce", TABLE, "--no-report")
    assert code == 1
    assert "No space left on this disk; free some" in error
    log = "Snakemake ended with code 1 (whole log: a.log):\nOSError: [Errno 28] No space left on device: '.snakemake'"
    monkeypatch.setattr(execute, "execute", raising(BadInput(log)))
    assert "no space left on this disk; free some" in refused(cli_run, "reproduce", TABLE, "--no-report")
    assert faults.in_text("WorkflowError:\nOSError: [Errno 122] Disk quota exceeded: '.snakemake'")
    assert faults.in_text("all went well") is None


def test_a_home_that_cannot_be_written_is_one_line_of_snakemake(
    workspace: Path, cli_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = "Snakemake ended with code 1 (whole log: a.log):\n  File os, line 225, in makedirs\n\n"
    log += "NotADirectoryError: [Errno 20] Not a directory: '/a/home'"
    monkeypatch.setattr(execute, "execute", raising(BadInput(log)))
    line = refused(cli_run, "reproduce", TABLE, "--no-report")
    assert "/a/home: a file is where a folder is expected; check the path (Snakemake ended" in line
    assert "makedirs" not in cli_run("reproduce", TABLE, "--no-report")[2]
    assert "a.log" in line


@pytest.mark.parametrize("command", ["doctor", pytest.param("generate", marks=pytest.mark.slow)])
def test_a_home_that_cannot_be_written_stops_nothing_that_needs_none(
    command: str, tmp_path: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.pipeline().save_pretrained(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("a red star\n")
    (tmp_path / "file").touch()
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "file" / "home"))
    for name in ("HF_HOME", "TORCH_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(name, raising=False)
    ended = cli(*map(str, generate(tmp_path))) if command == "generate" else cli(command)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr


COMMANDS: dict[str, Callable[[Path], tuple[object, ...]]] = {
    "statistics": lambda place: ("evaluate", "statistics", place / "file", "--encoder", "shapes", "--out", place / "x"),
    "no prompts": lambda place: generate(place, place / "file" / "below"),
    "a folder of prompts": lambda place: generate(place, place / "pipeline"),
    "into a file": lambda place: generate(place, out=place / "file"),
    "below a file": lambda place: generate(place, out=place / "file" / "out"),
    "a file as a pipeline": lambda place: generate(place / "file"),
    "latency": lambda place: ("latency", place / "file" / "net.tflite"),
    "import": lambda place: ("latency", place / "gone.json", "--import", "benchmark-model"),
}


def generate(place: Path, prompts: Path | None = None, out: Path | None = None) -> tuple[object, ...]:
    asked = ("--prompts", prompts or place / "prompts.txt", "--out", out or place / "out")
    return "generate", place / "pipeline", *asked


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_paths_end_with_one_line(command: str, tmp_path: Path, cli_run: Any) -> None:
    tiny.pipeline().save_pretrained(tmp_path / "pipeline")
    (tmp_path / "images").mkdir()
    (tmp_path / "file").write_text("a file")
    (tmp_path / "prompts.txt").write_text("a red star\n")
    code, _, error = cli_run(*COMMANDS[command](tmp_path))
    assert code == 2, error
    assert "Traceback" not in error
    assert str(tmp_path) in error


def test_a_broken_pipeline_is_one_line_of_generate(tmp_path: Path, cli_run: Any) -> None:
    tiny.pipeline().save_pretrained(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("a red star\n")
    file = tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    line = refused(cli_run, *generate(tmp_path))
    assert str(file) in line
    shutil.rmtree(tmp_path / "pipeline" / "scheduler")
    line = refused(cli_run, *generate(tmp_path))
    assert "scheduler" in line or str(file) in line
    assert not (tmp_path / "out").exists()
