"""How the tests are built: makers are shared through tests/support alone, and no clock decides anything."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import REPOSITORY

FILES = sorted((REPOSITORY / "tests").rglob("*.py"))
CLOCKS = {
    "time": {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns", "process_time"}
    | {"process_time_ns", "thread_time", "sleep"},
    "timeit": {"timeit", "repeat", "default_timer"},
    "os": {"times"},
}
GUARDS = {"waiting.py", "browser.py"}
"""Files of tests/support that look at a clock, to end what would never end."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of imports, and what is taken from them, dotted."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{name.name}" for name in node.names)


def foreign_makers(source: str) -> list[str]:
    """Imports from tests that are not of tests/support."""
    return [
        name
        for name in imported(ast.parse(source))
        if name.startswith(".") or (name.startswith("tests.") and not name.startswith("tests.support."))
    ]


def clocks(source: str) -> list[str]:
    """Uses of clocks and sleeps."""
    tree = ast.parse(source)
    read = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    return sorted(
        name
        for module, names in CLOCKS.items()
        for name in (f"{module}.{each}" for each in names)
        if name in read | set(imported(tree))
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_a_file_takes_makers_from_support_and_reads_no_clock(file: Path) -> None:
    source = file.read_text()
    assert foreign_makers(source) == []
    if file.name not in GUARDS:
        assert clocks(source) == []


def test_such_faults_are_found() -> None:
    assert foreign_makers(
        "from tests.a.test_b import c\nfrom tests.conftest import D\nfrom tests.support import e"
    ) == [
        "tests.a.test_b.c",
        "tests.conftest.D",
    ]
    assert foreign_makers("from .test_b import c\nimport tests.a.conftest") == [".test_b.c", "tests.a.conftest"]
    assert clocks("import time\nbegan = time.perf_counter()\ntime.sleep(1)") == ["time.perf_counter", "time.sleep"]
    assert clocks("from time import monotonic") == ["time.monotonic"]
    assert clocks("monkeypatch.setattr(loop.time, 'monotonic', clock)") == []
