"""LiteRT and torch in turn: rounds, order, and processes that end with those who started them."""

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mdrepro.core.errors import BadInput
from mdrepro.export import commands
from mdrepro.latency import host, host_torch
from mdrepro.latency.file_metadata import FileMetadata
from mdrepro.latency.host_torch import RuntimeSetup
from tests.support.small_system import build

FAKE = """
import json, sys
from mdrepro.latency import host_child

def prepare(asked):
    def run():
        with open(asked["log"], "a") as file:
            print(asked["name"], file=file)
        if asked.get("break_at") is not None and len(open(asked["log"]).readlines()) >= asked["break_at"]:
            raise ValueError("it broke")
    print("a library says something")
    return run, asked["name"]

host_child.cli(prepare)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes ways whose runs write their name into one file."""
    (tmp_path / "fake_child.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(host.__file__).parents[2]}")
    log = tmp_path / "log"

    def way(name: str, **more: Any) -> RuntimeSetup:
        return RuntimeSetup(name, {"name": name, "log": str(log)} | more, "fake_child")

    way.log = log  # type: ignore[attr-defined]
    return way


def test_ways_take_turns_and_the_order_turns_round(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SIDE", 8)
    told = host_torch.alternate([fake("a"), fake("b")], runs=4)
    assert fake.log.read_text().split() == ["a", "a", "b", "b"] + ["a", "b", "b", "a"] * 2  # two of each to warm up
    assert [len(one["seconds"]) for one in told.values()] == [4, 4]
    assert told["a"]["runtime"] == "a"
    value, low, high = host_torch.ratio(told["a"], told["b"])
    assert low <= value <= high


def test_three_ways_come_in_every_order(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SIDE", 8)
    host_torch.alternate([fake(name) for name in "abc"], runs=6)
    said = "".join(fake.log.read_text().split())[6:]  # after the warm-up
    assert sorted(said[3 * n : 3 * n + 3] for n in range(6)) == ["abc", "acb", "bac", "bca", "cab", "cba"]


def test_ratio_is_of_the_runs_of_one_round() -> None:
    slow = [1.0, 2.0, 4.0, 3.0]  # a machine that slows down for a while
    above, below = ({"seconds": [factor * each for each in slow]} for factor in (3.0, 2.0))
    assert host_torch.ratio(above, below) == pytest.approx((1.5, 1.5, 1.5))  # type: ignore[arg-type]


def test_bounds(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SIDE", 8)
    for bounds, rounds in (
        ({"runs": 50, "most": 6}, 6),
        ({"runs": 1, "seconds": 5}, 5),
        ({"runs": 7, "seconds": 5}, 7),
        ({"runs": 9, "most": 0.01}, 3),  # never fewer
    ):
        clock = itertools.chain([0], itertools.count()).__next__  # a second a round
        monkeypatch.setattr(host_torch, "time", SimpleNamespace(perf_counter=clock))
        assert len(host_torch.alternate([fake("a")], **bounds)["a"]["seconds"]) == rounds


def test_a_process_that_breaks_says_why_and_the_others_end(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "SIDE", 8)
    started: list[Any] = []
    popen = host_torch.subprocess.Popen
    monkeypatch.setattr(host_torch.subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    for break_at in (4, 6):  # while it warms up, and while it is measured
        with pytest.raises(BadInput, match="b cannot run it: ValueError: it broke"):
            host_torch.alternate([fake("a"), fake("b", break_at=break_at)], runs=4)
        fake.log.unlink()
    assert len(started) == 4
    assert all(process.poll() is not None for process in started)


def test_what_is_not_allowed(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        host_torch.litert(tmp_path / "none.tflite")
    with pytest.raises(BadInput, match="must be 1 to"):
        host_torch.alternate([], threads=10_000)


def test_memory_is_that_of_the_process_and_not_of_the_one_that_started_it(
    fake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "SIDE", 8)
    ballast = np.ones(100_000_000)  # 800 MB
    told = host_torch.alternate([fake("a")], runs=3)
    assert 5e6 < told["a"]["peak_bytes"] < 3e8
    assert ballast.nbytes == 8e8


@pytest.mark.slow
def test_torch_and_litert_run_the_same_network(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    build().save_pretrained(folder)
    done = commands.export(str(folder), tmp_path / "out", wanted=["unet"], branches=1, threads=1)
    file = tmp_path / "out" / done["files"][0]["file"]
    ways = [host_torch.litert(file), host_torch.torch(str(folder), "unet", branches=1)]
    told = host_torch.alternate(ways, 1, runs=5)
    assert list(told) == ["LiteRT", "eager torch"]
    assert told["eager torch"]["runtime"].endswith("eager")
    record, state = host.record([told["eager torch"]], 1, FileMetadata("tiny", "unet"), macs=10**6)
    assert record.times.runs == 5
    assert record.model_sha256 == ""
    assert state["gmacs"] == pytest.approx(1e6 / record.times.ms / 1e6)
    value, low, high = host_torch.ratio(told["LiteRT"], told["eager torch"])
    assert 0 < low <= value <= high
    assert json.dumps(told)
