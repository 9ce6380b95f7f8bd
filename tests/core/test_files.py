"""Files that appear whole: a process is killed before each of its file operations, and the outcome looked at."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mdrepro.core import files
from mdrepro.core.files import HOST, digest, remove, replacing, replacing_folder, swap, sweep, unfinished, write_json

OLD, NEW = "old " * 1000, "new " * 3000
Action = Callable[[Path], None]


def write_file(final: Path) -> None:
    with replacing(final) as aside, open(aside, "w") as file:
        file.write(NEW[:100])
        file.flush()
        file.write(NEW[100:])


def write_folder(final: Path) -> None:
    with replacing_folder(final) as aside:
        (aside / "a").write_text(NEW)
        (aside / "inside").mkdir()
        (aside / "inside" / "b").write_text(NEW)


def content(final: Path) -> dict[str, str]:
    """What a reader of ``final`` sees: texts by name, "" for a file's own; nothing where there is nothing."""
    if final.is_file():
        return {"": final.read_text()}
    return {str(path.relative_to(final)): path.read_text() for path in sorted(final.rglob("*")) if path.is_file()}


def killed_at(number: int, action: Action, final: Path) -> bool:
    """Whether a child was killed before its ``number``-th file operation; False where it ended before."""
    child = os.fork()
    if not child:
        left = iter(range(number))

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if event.split(".")[0] in ("open", "os", "shutil") and event != "os.kill" and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            action(final)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("exchange", [True, False], ids=["in-one-step", "by-two-renames"])
@pytest.mark.parametrize(("action", "old"), [(write_file, False), (write_file, True), (write_folder, True)])
def test_a_kill_anywhere_leaves_the_old_or_the_new_whole(
    action: Action, old: bool, exchange: bool, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchanging", lambda: None)
    is_file = action is write_file
    before = ({"": OLD} if is_file else {"a": OLD, "c": OLD}) if old else {}
    after = {"": NEW} if is_file else {"a": NEW, "inside/b": NEW}
    seen, number = [], 0
    while True:
        final = tmp_path / str(number) / "final"
        final.parent.mkdir()
        for name, text in before.items():
            (final / name).parent.mkdir(exist_ok=True)
            (final / name).write_text(text)
        if not killed_at(number, action, final):
            break
        if not exchange:
            sweep(final.parent)  # mends the moment between two renames
        seen.append(content(final))
        assert seen[-1] in (before, after), number
        action(final)
        assert content(final) == after
        sweep(final.parent)
        assert [path.name for path in final.parent.iterdir()] == ["final"]
        number += every
    assert number >= 4
    assert before in seen
    assert is_file or after in seen


def test_who_is_at_work_is_known_by_process_and_host(tmp_path: Path) -> None:
    final = tmp_path / "final"
    assert not files.at_work(final)
    with replacing(final) as aside:
        aside.touch()
        assert files.at_work(final)
        assert not files.at_work(tmp_path / "fin")
        assert not files.at_work(tmp_path / "final.failed")
    assert not files.at_work(final)
    (tmp_path / f".final.{HOST}.4194305.01234567").touch()  # beyond the highest number of a process
    assert not files.at_work(final)
    (tmp_path / ".final.0123abcd.7.01234567").touch()
    assert files.at_work(final), "of another host nobody knows"


def test_what_was_moved_away_to_make_room_comes_back_also_where_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where names are not exchanged in one step: every kill that left nothing, and then every kill of what mends it."""
    monkeypatch.setattr(files, "_exchanging", lambda: None)
    number, mended = 0, 0
    while True:
        final = tmp_path / str(number) / "final"
        final.mkdir(parents=True)
        (final / "a").write_text(OLD)
        if not killed_at(number, write_folder, final):
            break
        if not final.exists():
            again = 0
            while killed_at(again, lambda final: sweep(final.parent), final):
                again += 1
            assert content(final) == {"a": OLD}
            assert [path.name for path in final.parent.iterdir()] == ["final"]
            mended += 1
        number += 1
    assert mended


@pytest.mark.parametrize("code", files.UNKNOWN_CALL)
def test_a_system_that_refuses_to_exchange_names_is_one_without_the_call(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: bytes) -> int:
        files.ctypes.set_errno(code)
        return -1

    monkeypatch.setattr(files, "_exchanging", lambda: refuse)
    for _ in range(2):
        write_folder(tmp_path / "final")
    assert content(tmp_path) == {"final/a": NEW, "final/inside/b": NEW}


def test_everything_is_flushed_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[tuple[str, bool]] = []
    final, sync = tmp_path / "final", os.fsync

    def note(handle: int) -> None:
        flushed.append((Path(f"/proc/self/fd/{handle}").readlink().name, final.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", note)
    write_folder(final)
    assert {name for name, named in flushed if not named} >= {"a", "b", "inside"}
    assert flushed[-1] == (tmp_path.name, True)
    flushed.clear()
    final = tmp_path / "file"
    write_json(final, {"a": 1})
    assert [named for _, named in flushed] == [False, True]
    assert flushed[0][0].startswith(".file.")
    assert flushed[1][0] == tmp_path.name


def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    final = tmp_path / "final"
    final.write_text(OLD)

    def fail(kind: Callable[[Path], "files.contextlib._GeneratorContextManager[Path]"]) -> None:  # type: ignore[name-defined]
        with kind(final):
            raise KeyError

    for kind in (replacing, replacing_folder):
        with pytest.raises(KeyError):
            fail(kind)
    with pytest.raises(ValueError, match="JSON"):
        write_json(final, {"value": float("nan")})
    assert content(tmp_path) == {"final": OLD}


def test_files_and_folders_take_the_place_of_each_other(tmp_path: Path) -> None:
    final = tmp_path / "final"
    for action, after in (
        (write_file, {"": NEW}),
        (write_folder, {"a": NEW, "inside/b": NEW}),
        (write_file, {"": NEW}),
    ):
        action(final)
        assert content(final) == after
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder")
    write_file(tmp_path / "file")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    modes = {path: path.stat().st_mode for path in tmp_path.rglob("*")}
    assert modes[tmp_path / "folder"] == modes[tmp_path / "plain"]
    assert modes[tmp_path / "file"] == modes[tmp_path / "folder" / "a"] == modes[tmp_path / "plain" / "file"]


def test_a_missing_source_is_an_error_and_removes_nothing(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "a").write_text(OLD)
    with pytest.raises(FileNotFoundError):
        swap(tmp_path / "gone", tmp_path / "final")
    assert content(tmp_path / "final") == {"a": OLD}


def test_a_sweep_takes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    with unfinished(tmp_path / "mine") as mine:
        mine.mkdir()
        elsewhere = f".one.{'0' * 8}.{child}.0123abcd"
        keep = {mine.name, ".hidden", ".lock", f"notes.{HOST}.{child}.0123abcd", elsewhere}
        for name in keep - {mine.name}:
            (tmp_path / name).touch()
        (tmp_path / f".one.{HOST}.{child}.0123abcd").mkdir()
        (tmp_path / f".two.{HOST}.{child}.0123abcd").touch()
        sweep(tmp_path, "one")
        assert {path.name for path in tmp_path.iterdir()} == keep | {f".two.{HOST}.{child}.0123abcd"}
        sweep(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == keep


def test_a_folder_is_removed_out_of_sight(tmp_path: Path) -> None:
    write_folder(tmp_path / "final")
    number = 0
    while killed_at(number, remove, tmp_path / "final"):
        assert content(tmp_path / "final") in ({}, {"a": NEW, "inside/b": NEW})
        sweep(tmp_path)
        write_folder(tmp_path / "final")
        number += 1
    assert number
    assert not list(tmp_path.iterdir())


def test_digests_are_those_of_the_json_text() -> None:
    value = {"b": [1, 2.5, None], "a": "é"}
    compact, spaced = '{"a":"\\u00e9","b":[1,2.5,null]}', '{"a": "\\u00e9", "b": [1, 2.5, null]}'
    assert json.loads(compact) == json.loads(spaced) == value
    assert digest(value) == hashlib.sha256(compact.encode()).hexdigest()
    assert digest(value, compact=False) == hashlib.sha256(spaced.encode()).hexdigest()
