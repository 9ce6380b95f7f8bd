"""Every command that writes, on a disk that fails: one line that names the path and the cause, code 2, the old intact.

``make faults`` tries every kind of failure with every command; ``make test`` a full disk and a file for a folder.
"""

import builtins
import errno
import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError

from mdrepro.core import faults, files
from mdrepro.core.files import ASIDE
from mdrepro.export import commands, components
from mdrepro.metrics.image.statistics import Convention, Statistics
from mdrepro.reproduce.report import api, build
from mdrepro.reproduce.workflow import publish, results
from mdrepro.sampling import generate, manifest
from mdrepro.training.runs import commands as training
from tests.support import dialogue
from tests.support import tiny_pipeline as tiny
from tests.support.checkout import TABLE, make_run, row
from tests.support.recipe_rows import put
from tests.support.recipe_rows import tiny as tiny_rows
from tests.support.refusals import refused
from tests.support.tflite_files import exported

torch.set_num_threads(1)
WHOLE = bool(os.environ.get("MDREPRO_FAULTS"))
SIZE = 1 << 20
"""Bytes of the small disk."""
Prepare = Callable[[Path, pytest.MonkeyPatch], tuple[object, ...]]


def to_generate(disk: Path, _: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Goes on with a set that has its first image."""
    aside = disk.parent
    tiny.pipeline().save_pretrained(aside / "pipeline")
    (aside / "prompts.txt").write_text("a red star\na blue circle\n")
    pipeline = training.pipeline(str(aside / "pipeline"), None)
    prompts = (aside / "prompts.txt").read_text().splitlines()
    made = generate.generate(pipeline, prompts, str(disk / "out"), steps=1, guidance=1.0, batch=8)
    made.files[1].unlink()
    (disk / "out" / manifest.MANIFEST).unlink()
    options = ("--prompts", aside / "prompts.txt", "--steps", 1, "--guidance", 1, "--out", disk / "out")
    return "generate", aside / "pipeline", *options


def to_combine(disk: Path, _: pytest.MonkeyPatch) -> tuple[object, ...]:
    convention = Convention("scenes", "0" * 64, "64 px")
    parts = [disk.parent / f"{name}.safetensors" for name in "ab"]
    for scale, file in enumerate([*parts, disk / "whole.safetensors"], start=1):
        Statistics.of(torch.eye(5) * scale, convention).save(file)
    return "evaluate", "combine", *parts, "--out", disk / "whole.safetensors"


def to_import(disk: Path, _: pytest.MonkeyPatch) -> tuple[object, ...]:
    (disk.parent / "log.txt").write_text(dialogue.GPU)
    (disk / "records.json").write_text("old records")
    known = ("--model", "unet", "--device", "Pixel 8", "--component", "unet")
    return "latency", disk.parent / "log.txt", "--import", "benchmark-model", *known, "--out", disk / "records.json"


def to_bundle(disk: Path, _: pytest.MonkeyPatch) -> tuple[object, ...]:
    file = exported(disk.parent / "in", model="m", component="unet", precision="fp16", branches=1, resolution=64)
    return "latency", file, "--bundle", disk / "bundle"


def to_export(disk: Path, patch: pytest.MonkeyPatch) -> tuple[object, ...]:
    def export(_: Any, component: str, __: Any, ready: Path, *___: Any) -> list[Any]:
        (ready / f"{component}-fp32.tflite").write_bytes(b"new" * 999)
        return []

    model = SimpleNamespace(name="m", weights="w", pipeline=None, component=lambda one, _: one)
    patch.setattr(commands, "_export", export)
    patch.setattr(commands, "_head", lambda *_: {})
    patch.setattr(components, "find", lambda *_: model)
    patch.setattr(commands.TARGETS["litert"], "check", lambda *_: 0)
    (disk / "out").mkdir()
    (disk / "out" / "unet-fp32.tflite").write_text("old network")
    return "export", "shapes-1", "--out", disk / "out"


def to_publish(_: Path, patch: pytest.MonkeyPatch) -> tuple[object, ...]:
    make_run(patch, [row(859.0)])
    publish.publish([TABLE], "quick")
    make_run(patch, [row(861.0)])
    return "publish", TABLE


def to_rejudge(_: Path, patch: pytest.MonkeyPatch) -> tuple[object, ...]:
    make_run(patch, [row(859.0)])
    publish.publish([TABLE], "quick")
    patch.setattr(publish, "dirty", list)
    patch.setattr(results, "judged_claims", lambda *_: [])
    return "publish", "--rejudge"


def to_train(_: Path, patch: pytest.MonkeyPatch) -> tuple[object, ...]:
    put(tiny_rows(), patch)
    return "train", "t-reader"


def to_reproduce(_: Path, patch: pytest.MonkeyPatch) -> tuple[object, ...]:
    make_run(patch, [row(859.0)])
    return "reproduce", TABLE, "--force", "--no-report"


def to_report(disk: Path, patch: pytest.MonkeyPatch) -> tuple[object, ...]:
    shown = SimpleNamespace(value="old")

    def sphinx(_: Any, folder: Path, **__: Any) -> None:
        (folder / "index.html").write_text(shown.value)

    (disk.parent / "api").mkdir()
    patch.setattr(build, "sphinx", sphinx)
    patch.setattr(build, "_Sources", lambda *_: SimpleNamespace(texts={}))
    patch.setattr(build, "_inputs", lambda _: {"result": {"a": shown.value}})
    patch.setattr(api, "build", lambda *_: disk.parent / "api")
    build.build()
    shown.value = "new"
    return ("report",)


COMMANDS: dict[str, tuple[Prepare, str]] = {
    "generate": (to_generate, "disk"),
    "evaluate combine": (to_combine, "disk"),
    "latency --import": (to_import, "disk"),
    "latency --bundle": (to_bundle, "disk"),
    "export": (to_export, "disk"),
    "publish": (to_publish, "checkout/results"),
    "publish --rejudge": (to_rejudge, "checkout/results"),
    "train": (to_train, "checkout/papermill_runs"),
    "reproduce": (to_reproduce, "checkout/papermill_runs"),
    "report": (to_report, "checkout/papermill_runs"),
}
"""What prepares each command, and the folder that it writes below."""


class _Full:
    """A file that takes no byte."""

    def __init__(self, file: Any, error: OSError) -> None:
        self._file, self._error = file, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> Any:
        self._file.close()

    def write(self, _: Any) -> Any:
        raise self._error


def fails(patch: pytest.MonkeyPatch, where: str, number: int, below: Path) -> None:
    """Has the system's calls fail below a folder: ``open`` for writing, ``write``, ``rename``, or ``all``."""
    plain, replace, mkdir = io.open, os.replace, os.mkdir
    system = os.strerror(number)

    def inside(path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and Path(path).absolute().is_relative_to(below)

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+") or not inside(file):
            return plain(file, mode, *arguments, **options)
        if where != "write":
            raise OSError(number, system, str(file))
        return _Full(plain(file, mode, *arguments, **options), OSError(number, system))

    def renamed(source: Any, target: Any, **options: Any) -> None:
        if inside(target):
            raise OSError(number, system, str(source), None, str(target))
        replace(source, target, **options)

    def made(path: Any, *arguments: Any, **options: Any) -> None:
        if inside(path):
            raise OSError(number, system, str(path))
        mkdir(path, *arguments, **options)

    def serialised(*_: Any, **__: Any) -> None:
        raise SafetensorError(f"I/O error: {system} (os error {number})")

    if where != "rename":
        patch.setattr(builtins, "open", opened)
        patch.setattr(io, "open", opened)
        for module in (safetensors.torch, safetensors.numpy):
            patch.setattr(module, "serialize_file", serialised)
    if where in ("rename", "all"):
        patch.setattr(os, "replace", renamed)
        patch.setattr(files, "_exchange", renamed)
    if where == "all":
        patch.setattr(os, "mkdir", made)


FAILURES: dict[str, tuple[str, int]] = {
    "full, at open": ("open", errno.ENOSPC),
    "full, at write": ("write", errno.ENOSPC),
    "full, at rename": ("rename", errno.ENOSPC),
    "quota, at write": ("write", errno.EDQUOT),
    "read-only": ("all", errno.EROFS),
}
QUICK = "full, at write"


@pytest.fixture
def place(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of disk and checkout; no process of its own is started."""
    for name in ("disk", "checkout/results", "checkout/papermill_runs"):
        (tmp_path / name).mkdir(exist_ok=True)
    monkeypatch.setattr(subprocess, "Popen", _no_process(subprocess.Popen))
    return tmp_path


def _no_process(real: Any) -> Any:
    class Popen(real):  # type: ignore[misc]
        def __init__(self, command: Any, *arguments: Any, **options: Any) -> None:
            assert "snakemake" not in command, "Snakemake was started"
            super().__init__(command, *arguments, **options)

    return Popen


def content(folder: Path) -> dict[Path, bytes]:
    """What must stay: the files of a folder but locks."""
    kept = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path: path.read_bytes() for path in kept if path.suffix != ".lock" and path.name != "filler"}


def check(line: str, disk: Path, number: int, before: dict[Path, bytes]) -> None:
    """The line names a path and the cause, the old is as it was, and nothing half is left."""
    assert faults.REMEDIES[number] in line, line
    assert disk.name in line, line
    now = content(disk)
    assert {path: now.get(path) for path in before} == before
    assert [path for path in now if any(ASIDE.fullmatch(part) for part in path.parts)] == []


@pytest.mark.parametrize("failure", FAILURES if WHOLE else [QUICK])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_that_fails_is_one_line(
    command: str, failure: str, place: Path, cli_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, name = COMMANDS[command]
    disk, (where, number) = place / name, FAILURES[failure]
    arguments, before = prepare(disk, monkeypatch), content(disk)
    files._SWEPT.clear()
    with monkeypatch.context() as patch:
        fails(patch, where, number, disk)
        line = refused(cli_run, *arguments)
    check(line, disk, number, before)


@pytest.mark.parametrize("command", COMMANDS if WHOLE else ["export", "publish", "train", "reproduce", "report"])
def test_a_file_where_a_folder_is_expected_is_one_line(
    command: str, place: Path, cli_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not bind root; a file in the folder's place does."""
    prepare, name = COMMANDS[command]
    disk = place / name
    arguments = prepare(disk, monkeypatch)
    shutil.rmtree(disk)
    disk.write_text("a file")
    line = refused(cli_run, *arguments)
    assert disk.name in line
    assert disk.read_text() == "a file"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of `SIZE` bytes at a folder; skips where none can be mounted."""
    options = ["-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leaves no byte free on the disk of a folder."""
    with open(folder / "filler", "wb", buffering=0) as file:
        for _ in range(SIZE):
            try:
                file.write(bytes(4096))
            except OSError:
                return
    raise AssertionError("the disk takes more than its size")


@pytest.mark.skipif(not WHOLE, reason="make faults")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(command: str, place: Path, cli_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, name = COMMANDS[command]
    disk = place / name
    with small_disk(disk):
        arguments, before = prepare(disk, monkeypatch), content(disk)
        files._SWEPT.clear()
        fill(disk)
        line = refused(cli_run, *arguments)
        check(line, disk, errno.ENOSPC, before)
