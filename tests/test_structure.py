"""How the tests are built: makers are shared through tests/support alone, and no clock decides anything."""

import ast
from collections.abc import Set
from pathlib import Path

import pytest

from tests.support.checkout import REPOSITORY

FILES = sorted((REPOSITORY / "tests").rglob("*.py"))
CLOCKS = {
    *(f"time.{name}" for name in ("perf_counter", "monotonic", "time", "process_time", "thread_time", "sleep")),
    *(f"time.{name}_ns" for name in ("perf_counter", "monotonic", "time", "process_time", "thread_time")),
    *("timeit.timeit", "timeit.repeat", "timeit.default_timer", "os.times"),
}
GUARDS = {"waiting.py", "browser.py"}
"""Files of tests/support that look at a clock, to end what would never end."""


def used(source: str) -> set[str]:
    """What a file imports and which attributes of plain names it reads, dotted."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{'.' * node.level}{node.module or ''}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names.add(f"{node.value.id}.{node.attr}")
    return names


def foreign_makers(names: Set[str]) -> list[str]:
    """Imports from tests that are not of tests/support."""
    return sorted(
        name
        for name in names
        if name.startswith(".") or (name.startswith("tests.") and not name.startswith("tests.support."))
    )


def clocks(names: Set[str]) -> list[str]:
    """Uses of clocks and sleeps."""
    return sorted(names & CLOCKS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_a_file_takes_makers_from_support_and_reads_no_clock(file: Path) -> None:
    names = used(file.read_text())
    assert foreign_makers(names) == []
    if file.name not in GUARDS:
        assert clocks(names) == []


def test_such_faults_are_found() -> None:
    for source, makers in (
        ("from tests.a.test_b import c\nfrom tests.support import d", ["tests.a.test_b.c"]),
        ("from tests.conftest import D", ["tests.conftest.D"]),
        ("from .test_b import c\nimport tests.a.conftest", [".test_b.c", "tests.a.conftest"]),
    ):
        assert foreign_makers(used(source)) == makers
    for source, found in (
        ("import time\nbegan = time.perf_counter()\ntime.sleep(1)", ["time.perf_counter", "time.sleep"]),
        ("from time import monotonic", ["time.monotonic"]),
        ("monkeypatch.setattr(loop.time, 'monotonic', clock)", []),
    ):
        assert clocks(used(source)) == found
