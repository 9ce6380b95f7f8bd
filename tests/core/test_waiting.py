"""Lines of progress of calls that say nothing themselves: when they come, by a clock that the test winds."""

import json
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mdrepro.core import console
from mdrepro.core.console import TICKER, Progress, quietly, waiting
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import host_latency
from mdrepro.reproduce.workflow import execute, exported, plan
from mdrepro.reproduce.workflow.fingerprint import code
from tests.support.checkout import REPOSITORY, TABLE

Wind = Callable[..., None]


def ticking() -> bool:
    """Whether the thread that prints runs."""
    return any(thread.name == TICKER for thread in threading.enumerate())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """``now``, in seconds; the thread's waits let it pass, up to ``end``; ``at``: what happens at a time."""
    state: dict[str, Any] = {"now": 1000.0, "end": 1050.0, "at": {}}

    class Event:
        def wait(self, seconds: float) -> bool:
            state["now"] += seconds
            for when in [each for each in state["at"] if each <= state["now"]]:
                state["at"].pop(when)()
            return bool(state["now"] >= state["end"])

        def set(self) -> None:
            pass

    monkeypatch.setattr(console, "threading", SimpleNamespace(Event=Event, Thread=threading.Thread))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: state["now"]))
    monkeypatch.setattr(console, "_spoken", 0.0)
    return state


def test_a_line_every_15_seconds(clock: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("exporting sd15 unet"):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"exporting sd15 unet: {seconds} s so far" for seconds in (15, 30, 45)]
    assert not ticking()


def test_another_line_puts_it_off(clock: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("images", 4) as progress:
        clock["now"] += 5

        def speak() -> None:
            real, clock["now"] = clock["now"], 1016.0  # 16 s after its start, 11 s after that of the waiting
            progress.advance()
            clock["now"] = real

        clock["at"][1016.0] = speak
        with waiting("evaluating"):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("images: 1 of 4")
    assert lines[1:] == ["evaluating: 26 s so far", "evaluating: 41 s so far"]


def test_nothing_with_quiet_or_beside_a_live_line(
    clock: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with quietly(), waiting("exporting"):
        pass
    clock["end"] += 100
    monkeypatch.setattr(console, "_live", object())
    with waiting("exporting"):
        pass
    assert capsys.readouterr().err == ""


def test_it_ends_with_an_error_too() -> None:
    def fail() -> None:
        with waiting("exporting"):
            assert ticking()
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    assert not ticking()


def test_exports_of_latency_tables_are_waited_for_and_nothing_that_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, bool] = {}

    def child(command: Any, **_: Any) -> Any:
        seen["export"] = ticking()
        return subprocess.CompletedProcess(command, 0, '{"export": {"file": "x"}}\n', "")

    class Timed(Exception):
        """Ends the measurement at its first run."""

    def timed(*_: Any, **__: Any) -> Any:
        seen["timing"] = ticking()
        raise Timed

    piece = exported.Piece("sd15")
    monkeypatch.setattr(exported.subprocess, "run", child)
    assert exported._export({"model": "sd15", "component": "unet"}) == {"file": "x"}
    kept = SimpleNamespace(file="x", psnr_db=50.0, report={"seconds": {}, "bytes": 1})
    monkeypatch.setattr(host_latency.exported, "find", lambda *_: kept)
    monkeypatch.setattr(host_latency.host, "run", timed)
    options: dict[str, Any] = {"precision": "fp32", "resolution": 64, "threads": 1, "runs": 1, "seconds": 1.0}
    with pytest.raises(Timed):
        host_latency.measure([piece], **options, most=None, rounds=2)
    assert seen == {"export": True, "timing": False}
    assert capsys.readouterr().out.splitlines()[-1] == "round 1: timing sd15; no other line until it ends"


def test_tables_are_waited_for_but_not_those_that_time_something(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(execute, "_run", lambda *_: seen.append(ticking()) or (0, True, ""))
    [job] = plan.plan([TABLE], "quick")
    hashes = {**job.fingerprint, "code": {**job.fingerprint["code"], "mdrepro/latency/host.py": "0"}}
    for one in (job, replace(job, fingerprint=hashes)):
        execute.call((), [one], cores=1)
    assert seen == [True, False]


def test_what_times_something_is_known() -> None:
    timers = set()
    for table in ledger.tables().values():
        book = json.loads((REPOSITORY / str(table.notebook)).read_text(encoding="utf-8"))
        cells = ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == "code"]
        if execute.TIMING & code(cells).keys():
            timers.add(table.id)
    latency = {"mobilediffusion-device-latency", "snapfusion-latency-breakdown"}
    assert timers == latency | {"snapfusion-decoder", "snapfusion-evolution"}
    assert all((REPOSITORY / name).is_file() for name in execute.TIMING)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("evaluate encoders", True),
        ("list", True),
        ("export sd15 --precision fp8 --out x", True),
        ("latency", False),
        ("train", False),
        ("reproduce nothing", False),
    ],
)
def test_commands_are_waited_for_but_not_where_something_is_timed(
    monkeypatch: pytest.MonkeyPatch, cli_run: Any, words: str, expected: bool
) -> None:
    titles: list[str] = []

    def recorded(title: str) -> Any:
        titles.append(title)
        return quietly()

    monkeypatch.setattr(console, "waiting", recorded)
    cli_run(*words.split())
    command = " ".join(word for word in words.split()[:2] if word not in ("sd15", "nothing"))
    assert titles == ([f"mdrepro {command}"] if expected else [])
