"""The audit of claims: all of the papers' pass, and in each world a claim that was made bad on purpose is caught."""

import json
from typing import Any

import pytest

from mdrepro.papers import ledger
from mdrepro.papers.schema import Table
from mdrepro.reproduce import audit

CELL = {"confidence": "read-P", "source": "X"}
TOLERANCES = {"tolerance": {"relative": 0.05}, "rerun": {"relative": 0.05}}
BASE: dict[str, Any] = {
    "id": "small-table",
    "title": "A small table",
    "published_as": "Table 1",
    "protocol": "none",
    "rows": {"base": "base", "ours": "ours", "slow": "slow", "broken": "a control that loses"},
    "columns": {
        "fid": {"title": "FID", "better": "lower", **TOLERANCES},
        "fid_minus_base": {
            "title": "FID minus",
            "derived": {"of": "fid", "by": "difference", "to": "base"},
            **TOLERANCES,
        },
        "ms": {"title": "Time", "unit": "ms", "better": "lower", **TOLERANCES},
    },
    "cells": [
        {"row": "base", "column": "fid", "value": 12.5, **CELL},
        {"row": "ours", "column": "fid", "value": 12.6, **CELL},
        {"row": "broken", "column": "fid", "value": 18.0, **CELL},
        {"row": "base", "column": "ms", "value": 120.0, **CELL},
        {"row": "ours", "column": "ms", "value": 50.0, **CELL},
        {"row": "slow", "column": "ms", "value": 150.0, **CELL},
    ],
}
FASTER = {"left": "ours/ms", "op": "<", "right": "base/ms"}
TWICE = {"left": "base/ms", "op": ">=", "right": "ours/ms", "factor": 2.0}
NO_LOSS = {"left": "ours/fid_minus_base", "op": "<=", "right": "broken/fid_minus_base", "factor": 0.25}
LOSES = {"left": "broken/fid_minus_base", "op": ">", "right": 0}


def table(**claim: Any) -> Table:
    whole = {"id": "it", "statement": "It is.", "source": "X", "confidence": "read-P", "kind": "superiority", **claim}
    return Table.model_validate(BASE | {"claims": [whole]})


def audited(**claim: Any) -> audit.Audit:
    spec = table(**claim)
    return audit.audit_claim(spec, spec.claims[0])


def test_every_claim_of_both_papers_passes() -> None:
    audits = audit.audit()
    assert {one.claim.id for one in audits} == {c.id for t in ledger.tables(planned=True).values() for c in t.claims}
    assert {one.claim.id: one.faults for one in audits if one.faults} == {}
    assert all(audit.PAPER in one.verdicts and audit.REVERSED in one.verdicts for one in audits)


@pytest.mark.parametrize(
    "claim",
    [
        {"conditions": [FASTER]},
        {"conditions": [{"left": "slow/fid", "op": "<", "right": "base/fid"}], "world": {"slow/fid": 0.0}},
        {"conditions": [TWICE], "untrue": {"base/ms": 90.0}, "statement": "It takes half the time."},
        {"conditions": [FASTER | {"right": "slow/ms"}, FASTER], "among": ["base", "slow"], "statement": "The fewest."},
        {"kind": "equivalence", "conditions": [NO_LOSS], "control": [LOSES], "untrue": {"ours/fid_minus_base": 2.0}},
        {
            "kind": "figure",
            "conditions": [
                {"left": "ours/ms", "op": "<=", "right": "base/ms", "factor": 0.5},
                {"left": "ours/ms", "op": ">=", "right": "base/ms", "factor": 0.35},
            ],
            "untrue": {"ours/ms": 65.0},
        },
    ],
)
def test_good_claims_pass(claim: dict[str, Any]) -> None:
    assert audited(**claim).faults == []


BAD = {
    "the paper's own numbers break it": ({"conditions": [FASTER | {"op": ">"}]}, "in the paper world it does not hold"),
    "equal networks pass it": (
        {"conditions": [{**FASTER, "op": "<=", "factor": 1.1}], "untrue": {"ours/ms": 140.0}},
        "in the equal world it holds: ours/ms <= base/ms × 1.1: 50 against 50",
    ),
    "its control cannot lose": (
        {
            "kind": "equivalence",
            "conditions": [NO_LOSS],
            "control": [LOSES | {"op": ">="}],
            "untrue": {"ours/fid_minus_base": 2.0},
        },
        "in the equal world it holds",
    ),
    "a condition of its own hides an insensitive bed": (
        {
            "kind": "equivalence",
            "conditions": [NO_LOSS, FASTER],
            "control": [LOSES | {"op": ">="}],
            "untrue": {"ours/fid_minus_base": 2.0},
        },
        "in the equal world it is not bed not sensitive",
    ),
    "the effect turned round passes it": (
        {
            "conditions": [{**FASTER, "factor": 3.0}],
            "untrue": {"ours/ms": 500.0},
        },
        "in the reversed world it holds: ours/ms < base/ms × 3: 120 against 50",
    ),
    "a loss as large as the control's passes it": (
        {
            "kind": "equivalence",
            "conditions": [NO_LOSS | {"factor": 1.5}],
            "control": [LOSES],
            "untrue": {"ours/fid_minus_base": 9.0},
        },
        "in the reversed world it holds",
    ),
    "its margin is looser than its sentence": (
        {"conditions": [TWICE | {"factor": 1.5}], "untrue": {"base/ms": 90.0}, "statement": "Twice as fast."},
        "in the untrue world it holds: base/ms >= ours/ms × 1.5: 90 against 50",
    ),
    "nobody says where it stops giving way": ({"conditions": [TWICE]}, "show where, as the claim's `untrue`"),
    "a superlative names no others": (
        {"conditions": [FASTER], "statement": "It has the lowest latency."},
        "'lowest' is a superlative: name the rows",
    ),
    "a superlative leaves one out": ({"conditions": [FASTER], "among": ["base", "slow"]}, "not compared with slow"),
    "a superlative compares others with each other": (
        {"conditions": [FASTER, {"left": "slow/ms", "op": ">", "right": "base/ms"}], "among": ["base", "slow"]},
        "not compared with slow",
    ),
    "an example in place of the paper's number": (
        {"conditions": [FASTER | {"op": ">"}], "world": {"ours/ms": 500.0}},
        "the paper gives 50 for ours/ms",
    ),
    "a figure whose lower bound is loose": (
        {
            "kind": "figure",
            "conditions": [
                {"left": "ours/ms", "op": "<=", "right": "base/ms", "factor": 0.5},
                {"left": "ours/ms", "op": ">=", "right": "base/ms", "factor": 0.1},
            ],
            "untrue": {"ours/ms": 65.0},
        },
        "in the reversed world it holds",
    ),
    "a figure with one side": (
        {"kind": "figure", "conditions": [{**FASTER, "op": "<=", "factor": 0.5}], "untrue": {"ours/ms": 65.0}},
        "a figure has two sides: bound ours/ms by > too",
    ),
    "a number that the paper does not give": (
        {"conditions": [{"left": "slow/fid", "op": ">", "right": "base/fid"}]},
        "no number for slow/fid",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_each_world_catches_a_bad_claim(name: str) -> None:
    claim, fault = BAD[name]
    assert any(fault in found for found in audited(**claim).faults), audited(**claim).faults


def test_numbers_of_the_papers_world_follow_from_its_cells() -> None:
    """By hand: 12.6 - 12.5 of cells; 25.6 / 24.2 and 24.2 - 31.7 across tables; 13.64 / 13.71 of two curves."""
    assert (
        audited(kind="superiority", conditions=[{**LOSES, "left": "ours/fid_minus_base"}])
        .numbers["paper"]
        .startswith("ours/fid_minus_base > 0: 0.1 against 0")
    )
    by_id = {one.claim.id: one for one in audit.audit()}
    assert "table2-dpm++/fid_shapes_ratio > 1: 1.058 " in by_id["distilled-8-beat-undistilled-8"].numbers["paper"]
    assert "8/fid_shapes_minus_8_ddim < 0: -7.5 " in by_id["eight-distilled-beat-eight-undistilled"].numbers["paper"]
    reached = by_id["eight-steps-reach-the-fid-of-fifty"]
    assert "best_fid_shapes_ratio <= 1.1: 0.9949 " in reached.numbers["paper"]
    assert reached.origins["curve-ours/best_fid_shapes_ratio"] == audit.FOLLOWS
    assert by_id["half-a-second-on-phones"].origins == {"iphone15pro-mobilediffusion-1/total_ms": audit.OWN}
    assert audit.EQUAL not in by_id["half-a-second-on-phones"].verdicts


@pytest.mark.parametrize("given", ["ours/fid + ", "ours/fid ^ base/fid", "slow/fid", "ours/fid - slow/fid"])
def test_an_expression_that_cannot_be_worked_out_is_named(given: str) -> None:
    worse = {"left": "slow/fid", "op": ">", "right": "base/fid"}
    (fault,) = audited(conditions=[worse], world={"slow/fid": given}).faults
    assert "expected a cell or two with one of" in fault or "the paper has no figure for " in fault
    assert fault.startswith(repr(given))


def test_the_command_prints_every_claim_and_fails_where_one_does(cli_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, error = cli_run("audit", "claims")
    assert (code, error) == (0, "")
    assert out.splitlines()[-1] == f"{len(audit.audit())} of {len(audit.audit())} claims pass"
    spec = table(conditions=[FASTER | {"op": ">"}])
    monkeypatch.setattr(audit, "audit", lambda: [audit.audit_claim(spec, spec.claims[0])])
    code, out, error = cli_run("audit", "claims")
    assert (code, error) == (1, "")
    assert "it (small-table): in the paper world it does not hold: ours/ms > base/ms: 50 against 120" in out
    code, out, error = cli_run("audit", "claims", "--json")
    (one,) = json.loads(out)
    assert (code, one["kind"], one["verdicts"]["paper"]) == (1, "superiority", "does not hold")
