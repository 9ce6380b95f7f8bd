"""A table's notebook, run cell by cell in the process of its test."""

import json
from typing import Any

import pytest

from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from tests.support.checkout import REPOSITORY


def run_cells(table: str, parameters: dict[str, Any]) -> None:
    """The code cells of the notebook as it is in the repository, with these values in place of its own."""
    notebook = ledger.find(table).notebook
    assert notebook
    scope: dict[str, Any] = {}
    for cell in json.loads((REPOSITORY / notebook).read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
            if "parameters" in cell["metadata"].get("tags", []):
                scope |= parameters


def recorded(table: str, patch: pytest.MonkeyPatch, **parameters: Any) -> tuple[list[Row], list[str]]:
    """The rows that the notebook hands to ``record`` for its own table, and the names of its figures."""
    given: dict[str, Any] = {}

    def note(name: str, rows: list[Row], *, figures: dict[str, Any], **_: Any) -> None:
        given.update(table=name, rows=rows, figures=list(figures))

    patch.setattr("mdrepro.reproduce.workflow.record.record", note)
    run_cells(table, parameters)
    assert given["table"] == table
    return given["rows"], given["figures"]
