"""What is measured at no tier: every such row of the papers is named with what it needs, and no other."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from mdrepro.papers import ledger, unmeasured
from mdrepro.papers.schema import Table
from mdrepro.papers.unmeasured import Gap, gaps
from mdrepro.reproduce.workflow.record import complete
from tests.support.checkout import REPOSITORY

TABLES = list(ledger.tables(planned=True).values())
FIELDS: dict[str, Any] = {"tolerance": {"relative": 0.05}, "rerun": {"relative": 0.05}}
SMALL: dict[str, Any] = {
    "id": "small-table",
    "title": "A small table",
    "published_as": "Table 1",
    "notebook": "notebooks/small/table.ipynb",
    "protocol": "none",
    "rows": {"ours": "ours", "phone-old": "an old phone", "phone-new": "a new phone", "theirs": "theirs"},
    "columns": {"fid": {"title": "FID", **FIELDS}, "hps": {"title": "Preference", **FIELDS}},
    "cells": [
        {"row": "theirs", "column": "fid", "value": 9.0, "confidence": "read-P", "source": "X"},
        {"row": "ours", "column": "hps", "value": 27.0, "confidence": "read-P", "source": "X"},
        {"row": "ours", "column": "fid", "value": 8.0, "confidence": "read-P", "source": "X"},
    ],
    "claims": [
        {
            "id": "better",
            "statement": "It is better.",
            "source": "X",
            "confidence": "read-P",
            "kind": "superiority",
            "conditions": [
                {"left": "ours/fid", "op": "<", "right": "theirs/fid"},
                {"left": "ours/fid", "op": "<", "right": "phone-new/fid"},
            ],
        }
    ],
    "needs": {"phone-*": "the phones", "theirs": "their weights", "hps": "the preference model"},
    "unmeasured": [
        {"id": "nice", "statement": "It is nice.", "source": "X: Fig. 1", "confidence": "read-P", "needs": "taste"}
    ],
    "tiers": {"quick": {"networks": {"ours": {"recipe": "r", "steps": 1, "sampler": "ddim", "guidance": 1}}}},
}


BESIDE_NETWORKS = {"snapfusion-evolution": {"robust-recipe", "action"}}
"""Rows that a table's code measures and that no network makes, of tables without a published result."""


def published(table: Table) -> set[str]:
    """Rows with a number in the published results of the quick tier."""
    file = REPOSITORY / "results" / "quick" / f"{table.id}.json"
    if not file.is_file():
        return BESIDE_NETWORKS.get(table.id, set())
    return {row["row"] for row in json.loads(file.read_text(encoding="utf-8"))["rows"] if row["value"] is not None}


@pytest.mark.parametrize("table", TABLES, ids=[table.id for table in TABLES])
def test_rows_of_the_paper_that_no_tier_measures_are_those_that_say_what_they_need(table: Table) -> None:
    made = published(table) | {row for run in table.tiers.values() for row in run.networks}
    made |= {row for prefix in table.curves.values() for row in table.rows if row.startswith(f"{prefix}-")}
    needing = {row for name in table.needs for row in table.needing(name)}
    assert {cell.row for cell in table.cells} - made <= needing
    assert not needing & made


def test_a_column_that_needs_something_has_no_published_number() -> None:
    for table in TABLES:
        file = REPOSITORY / "results" / "quick" / f"{table.id}.json"
        if not file.is_file():
            continue
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
        measured = {row["column"] for row in rows if row["value"] is not None}
        assert not measured & table.needs.keys()


def test_the_page_in_docs_is_what_the_data_say() -> None:
    assert (REPOSITORY / "docs" / "unmeasured.md").read_text(encoding="utf-8") == unmeasured.markdown()


def test_rows_columns_and_statements_are_listed_with_the_claims_that_wait() -> None:
    table = Table.model_validate(SMALL)
    assert gaps(table) == [
        Gap("phone-*", "2 rows", "the phones", ("better",)),
        Gap("theirs", "theirs", "their weights", ("better",)),
        Gap("hps", "Preference", "the preference model"),
        Gap("nice", "It is nice. (X: Fig. 1; read-P)", "taste"),
    ]


def test_the_reason_of_a_cell_that_was_left_out_is_what_it_needs() -> None:
    reasons = {(row.row, row.column): row.reason for row in complete(Table.model_validate(SMALL), [])}
    assert reasons == {
        ("ours", "fid"): "this notebook does not measure it",
        ("ours", "hps"): "the preference model",
        ("theirs", "fid"): "their weights",
    }


@pytest.mark.parametrize(
    ("needs", "message"),
    [
        ({"tablet-*": "one"}, r"needs of unknown rows and columns: tablet-\*"),
        ({"ours": "a GPU"}, "needs of rows that a tier measures: ours"),
        ({"*": "a GPU"}, "needs of rows that a tier measures: ours"),
    ],
)
def test_needs_of_what_is_not_there_or_is_measured_are_refused(needs: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Table.model_validate(SMALL | {"needs": needs})


def test_the_command_prints_the_page_and_its_entries(cli_run: Any) -> None:
    assert cli_run("audit", "unmeasured") == (0, unmeasured.markdown(), "")
    code, out, _ = cli_run("audit", "unmeasured", "--json")
    entries = {(one["table"], one["name"]): one for one in json.loads(out)}
    assert code == 0
    assert entries["mobilediffusion-steps", "ufogen-1"]["needs"].startswith("UFOGen's one-step SD-1.5")
    waiting = entries["snapfusion-distillation-ablations", "fig7d-sd2-*"]["claims"]
    assert waiting == ["recipe-carries-over"]
