"""The schema refuses data that contradict themselves, and says which cell it is."""

import copy
from typing import Any

import pytest
from pydantic import ValidationError

from mdrepro.papers.claims import Claim, ClaimVerdict, Condition
from mdrepro.papers.schema import Cell, Column, Paper, Table, Tolerance

COLUMN = {"title": "PSNR", "tolerance": {"absolute": 0.5}, "rerun": {"absolute": 0.1}}
PAPER: dict[str, Any] = {
    "id": "paper",
    "title": "A paper",
    "arxiv": "0000.00000",
    "version": "v1",
    "authors": "A. Author",
    "sources": {"P-1": {"what": "the paper"}},
    "tables": [
        {
            "id": "paper-some-table",
            "title": "A table",
            "published_as": "Table 1",
            "notebook": "notebooks/paper/some_table.ipynb",
            "protocol": "as published",
            "rows": {"ours": "ours", "sd": "theirs"},
            "columns": {"psnr": COLUMN},
            "cells": [
                {"row": "ours", "column": "psnr", "value": 30.0, "confidence": "read-P", "source": "P-1: Table 1"},
                {"row": "sd", "column": "psnr", "confidence": "not found"},
            ],
            "claims": [
                {
                    "id": "better",
                    "statement": "Ours is better.",
                    "source": "P-1",
                    "confidence": "read-P",
                    "kind": "superiority",
                    "conditions": [{"left": "ours/psnr", "op": ">", "right": "sd/psnr"}],
                }
            ],
            "tiers": {"quick": {}},
        }
    ],
}


def paper(**changes: Any) -> dict[str, Any]:
    """The paper above with parts of its table replaced; a change to ``paper_...`` goes to the paper itself."""
    data = copy.deepcopy(PAPER)
    for name, value in changes.items():
        if name.startswith("paper_"):
            data[name.removeprefix("paper_")] = value
        else:
            data["tables"][0][name] = value
    return data


def networks(row: str, **changes: Any) -> dict[str, Any]:
    """Tiers of a table, with a network for a row."""
    setup = {"recipe": "shapes-base", "steps": "$steps", "sampler": "ddim", "guidance": 3}
    return {"quick": {"networks": {row: setup | changes}, "scorers": ["shapes-reader"]}}


def test_recipes_are_those_of_scorers_and_rows() -> None:
    table = Paper.model_validate(paper(tiers=networks("ours", decoder="shapes-vae"))).tables[0]
    assert table.recipes("quick") == ("shapes-reader", "shapes-base", "shapes-vae")
    assert table.recipes("paper") == ()
    published = Paper.model_validate(paper(tiers=networks("ours", recipe="sd15"))).tables[0]
    assert published.recipes("quick") == ("shapes-reader",)


def test_sound_data_load() -> None:
    table = Paper.model_validate(PAPER).tables[0]
    assert isinstance(table, Table)
    cell = table.cell("ours", "psnr")
    assert cell is not None
    assert cell.value == 30.0
    assert table.cell("ours", "ssim") is None


CELLS = PAPER["tables"][0]["cells"]
CLAIM = PAPER["tables"][0]["claims"][0]
FAULTS = {
    "a cell given twice": (paper(cells=[CELLS[0], CELLS[0]]), "cells given twice: ours/psnr"),
    "a cell of an unknown row": (paper(cells=[{**CELLS[0], "row": "other"}]), "outside the declared .*: other/psnr"),
    "a cell of an unknown column": (paper(cells=[{**CELLS[0], "column": "ssim"}]), "outside the declared .*ours/ssim"),
    "a claim about an unknown cell": (
        paper(claims=[{**CLAIM, "conditions": [{"left": "ours/ssim", "op": ">", "right": 1}]}]),
        "outside the declared .*: ours/ssim",
    ),
    "an unknown source": (paper(cells=[{**CELLS[0], "source": "P-2: Table 1"}]), "unknown source 'P-2'; known are P-1"),
    "an unknown source of a claim": (paper(claims=[{**CLAIM, "source": "P-2"}]), "unknown source 'P-2'"),
    "no source": (paper(cells=[{**CELLS[0], "source": ""}]), "ours/psnr: no source"),
    "a value that was not found": (paper(cells=[{**CELLS[0], "confidence": "not found"}]), "or is 'not found'"),
    "no value, yet read": (paper(cells=[{**CELLS[0], "value": None}]), "or is 'not found'"),
    "an unknown confidence": (paper(cells=[{**CELLS[0], "confidence": "sure"}]), "read-P"),
    "both tolerances": (paper(cells=[{**CELLS[0], "tolerance": {"relative": 0.1, "absolute": 1}}]), "either relative"),
    "neither tolerance": (paper(cells=[{**CELLS[0], "tolerance": {}}]), "either relative"),
    "a negative tolerance": (paper(cells=[{**CELLS[0], "tolerance": {"relative": -0.1}}]), "greater than or equal"),
    "a misspelt field": (paper(cells=[{**CELLS[0], "vlaue": 3}]), "vlaue"),
    "a notebook without tiers": (paper(tiers={}), "a notebook and its tiers are given together"),
    "tiers without a notebook": (paper(notebook=None), "a notebook and its tiers are given together"),
    "a tier both there and not": (paper(not_at={"quick": "a GPU"}), "both available and not: quick"),
    "an unknown tier": (paper(tiers={"huge": {}}), "huge"),
    "networks of an unknown row": (paper(tiers=networks("theirs")), "networks of unknown rows: theirs"),
    "no steps": (paper(tiers=networks("ours", steps=0)), "steps"),
    "guidance below none": (paper(tiers=networks("ours", guidance=0.5)), "guidance"),
    "a parameter without its sign": (paper(tiers=networks("ours", guidance="guidance")), "guidance"),
    "an unknown field of a row": (paper(tiers=networks("ours", weights="x")), "weights"),
    "another notebook's name": (paper(notebook="notebooks/paper/other.ipynb"), "its notebook is .*some_table.ipynb"),
    "another paper's table": (paper(id="other-table"), "named after its paper"),
    "a claim given twice": (paper(claims=[CLAIM, CLAIM]), "claims given twice: better"),
    "a claim without conditions": (paper(claims=[{**CLAIM, "conditions": []}]), "at least 1 item"),
    "a claim of no kind": (paper(claims=[{**CLAIM, "kind": "better"}]), "'superiority', 'equivalence' or 'figure'"),
    "an equivalence without a control": (
        paper(claims=[{**CLAIM, "kind": "equivalence"}]),
        "better: an equivalence, and nothing else, has a positive control",
    ),
    "a control of something else": (
        paper(claims=[{**CLAIM, "control": CLAIM["conditions"]}]),
        "better: an equivalence, and nothing else, has a positive control",
    ),
    "a world of an unknown cell": (
        paper(claims=[{**CLAIM, "world": {"ours/ssim": 1.0}}]),
        "outside the declared .*: ours/ssim",
    ),
    "a control row that is not there": (
        paper(controls={"ours/psnr": "theirs"}),
        "outside the declared .*: theirs/psnr",
    ),
    "a missing part": ({key: value for key, value in PAPER.items() if key != "arxiv"}, "arxiv"),
}


@pytest.mark.parametrize(("data", "message"), FAULTS.values(), ids=FAULTS)
def test_faulty_data_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Paper.model_validate(data)


def test_data_cannot_be_changed_after_loading() -> None:
    cell = Cell(row="ours", column="psnr", value=1, confidence="read-P", source="P-1")
    with pytest.raises(ValidationError, match="frozen"):
        cell.value = 2


@pytest.mark.parametrize(
    ("tolerance", "value", "reference", "allowed"),
    [
        (Tolerance(relative=0.02), 102.0, 100.0, True),
        (Tolerance(relative=0.02), 102.01, 100.0, False),
        (Tolerance(relative=0.02), -98.0, -100.0, True),
        (Tolerance(absolute=0.1), 0.3, 0.2, True),  # 0.3 - 0.2 is a hair less than 0.1 in floating point
        (Tolerance(absolute=0.1), 0.8, 0.7, True),  # and 0.8 - 0.7 a hair more
        (Tolerance(absolute=10), 323.0, 330.0, True),
        (Tolerance(absolute=0), 11, 11, True),
        (Tolerance(absolute=0), 12, 11, False),
        (Tolerance(relative=0.5), float("nan"), 1.0, False),
    ],
)
def test_tolerance_holds_both_ends(tolerance: Tolerance, value: float, reference: float, allowed: bool) -> None:
    assert tolerance.allows(value, reference) is allowed


def test_tolerance_in_words() -> None:
    assert [str(Tolerance(relative=r)) for r in (0.01, 0.02, 0.005, 1e-9)] == ["±1 %", "±2 %", "±0.5 %", "±1e-07 %"]
    assert str(Tolerance(absolute=10)) == "±10"


def test_column_needs_both_tolerances() -> None:
    for missing in ("tolerance", "rerun"):
        with pytest.raises(ValidationError, match=missing):
            Column.model_validate({key: value for key, value in COLUMN.items() if key != missing})


def exact(value: float) -> tuple[float, float, float]:
    return value, value, value


@pytest.mark.parametrize(
    ("op", "left", "right", "verdict"),
    [
        (">", exact(2), exact(1), ClaimVerdict.HOLDS),
        (">", exact(1), exact(1), ClaimVerdict.FAILS),
        (">=", exact(1), exact(1), ClaimVerdict.HOLDS),
        ("<", exact(1), exact(1), ClaimVerdict.FAILS),
        ("<=", exact(1), exact(1), ClaimVerdict.HOLDS),
        (">", (1.9, 2, 2.1), (1.0, 1.5, 1.8), ClaimVerdict.HOLDS),
        (">", (1.7, 2, 2.1), (1.0, 1.5, 1.8), ClaimVerdict.WITHIN_NOISE),
        (">", (0.7, 0.8, 0.9), (1.0, 1.5, 1.8), ClaimVerdict.FAILS),
        ("<", (0.7, 0.8, 0.9), (1.0, 1.5, 1.8), ClaimVerdict.HOLDS),
        ("<", (0.7, 0.8, 1.2), (1.0, 1.5, 1.8), ClaimVerdict.WITHIN_NOISE),
        ("<", (1.9, 2, 2.1), (1.0, 1.5, 1.8), ClaimVerdict.FAILS),
    ],
)
def test_condition_at_the_ends_of_its_intervals(
    op: str, left: tuple[float, float, float], right: tuple[float, float, float], verdict: ClaimVerdict
) -> None:
    condition = Condition.model_validate({"left": "a/x", "op": op, "right": "b/x"})
    assert condition.judge(left, right) is verdict


def test_factor_and_margin_move_the_right_side() -> None:
    quarter = Condition.model_validate({"left": "a/x", "op": "<=", "right": "b/x", "factor": 0.26})
    assert quarter.judge(exact(9.8), exact(39.3)) is ClaimVerdict.HOLDS
    assert quarter.judge(exact(10.3), exact(39.3)) is ClaimVerdict.FAILS
    margin = Condition.model_validate({"left": "a/x", "op": ">=", "right": 0, "margin": -0.5})
    assert margin.judge(exact(-0.4), exact(0)) is ClaimVerdict.HOLDS
    assert margin.judge(exact(-0.6), exact(0)) is ClaimVerdict.FAILS
    assert margin.judge((-0.7, -0.4, -0.1), exact(0)) is ClaimVerdict.WITHIN_NOISE
    negative = Condition.model_validate({"left": "a/x", "op": "<", "right": "b/x", "factor": -1})
    assert negative.judge(exact(-3), (1, 1.5, 2)) is ClaimVerdict.HOLDS
    assert negative.judge(exact(-1.5), (1, 1.5, 2)) is ClaimVerdict.WITHIN_NOISE


def test_condition_in_words() -> None:
    condition = Condition.model_validate({"left": "a/x", "op": "<=", "right": "b/x", "factor": 0.26, "margin": -1})
    assert str(condition) == "a/x <= b/x × 0.26 − 1"
    assert condition.cells() == ["a/x", "b/x"]
    against_number = Condition.model_validate({"left": "a/x", "op": ">", "right": 3})
    assert str(against_number) == "a/x > 3"
    assert against_number.cells() == ["a/x"]


@pytest.mark.parametrize("right", ["no column", "b/", "/x", None])
def test_condition_refuses_what_is_no_cell(right: Any) -> None:
    with pytest.raises(ValidationError):
        Condition.model_validate({"left": "a/x", "op": "<", "right": right})


def test_claim_needs_an_operator_we_know() -> None:
    with pytest.raises(ValidationError):
        Claim.model_validate({**CLAIM, "conditions": [{"left": "ours/psnr", "op": "==", "right": 1}]})
