"""The table of benchmarks: medians of rounds in turn, ratios, bars for seconds and for rates."""

import pytest

from benchmarks import __main__ as command
from benchmarks.table import Ratio, in_turn, markdown


def test_sides_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []
    now = iter([0, 99, 0, 99, 0, 1, 0, 8, 0, 3, 0, 4, 0, 2, 0, 6])
    found = in_turn(lambda: order.append("ours"), lambda: order.append("theirs"), 3, lambda: float(next(now)))
    assert order == ["ours", "theirs"] * 4
    assert found == (2, 6)


@pytest.mark.parametrize(
    ("unit", "ours", "kept"), [("s", 4.0, True), ("s", 6.0, False), ("images/s", 6.0, True), ("images/s", 4.0, False)]
)
def test_seconds_stay_below_their_bar_and_rates_above(unit: str, ours: float, kept: bool) -> None:
    row = Ratio("work", "a peer", ours, 10.0, unit, 0.5, "once")
    assert row.ratio == ours / 10
    assert row.kept == kept
    assert (" | NO | " in markdown([row])) != kept


def test_a_wrong_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["startup", "fdi"]) == 2
    assert capsys.readouterr().err == f"error: fdi: expected some of {', '.join(command.NAMES)}\n"


def test_each_name_is_a_module() -> None:
    import importlib

    assert all(callable(importlib.import_module(f"benchmarks.{name}").run) for name in command.NAMES)


@pytest.mark.slow
def test_a_benchmark_runs_and_is_kept(workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["drawing"]) == 0
    assert "drawing 64 scenes" in capsys.readouterr().out
    assert (workspace / "papermill_runs/benchmarks/results.md").read_text().count("\n") == 3
