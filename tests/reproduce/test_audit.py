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
    "rows": {name: name for name in ("base", "ours", "slow", "broken", "guessed", "remembered")},
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
        {"row": "guessed", "column": "fid", "value": 14.0, "confidence": "inferred", "source": "X"},
        {"row": "remembered", "column": "fid", "value": 15.0, "confidence": "recalled", "source": "X"},
        {"row": "base", "column": "ms", "value": 120.0, **CELL},
        {"row": "ours", "column": "ms", "value": 50.0, **CELL},
        {"row": "slow", "column": "ms", "value": 150.0, **CELL},
    ],
}
FASTER = {"left": "ours/ms", "op": "<", "right": "base/ms"}
TWICE = {"left": "base/ms", "op": ">=", "right": "ours/ms", "factor": 2.0}
NO_LOSS = {"left": "ours/fid_minus_base", "op": "<=", "right": "broken/fid_minus_base", "factor": 0.25}
LOSES = {"left": "broken/fid_minus_base", "op": ">", "right": 0}
TRAINED = {"left": "ours/fid", "op": "<=", "right": "base/fid", "factor": 1.1}


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
        {"conditions": [TWICE], "untrue": {"base/ms": 90.0}, "statement": "It takes at most half of the time."},
        {"conditions": [FASTER | {"right": "slow/ms"}, FASTER], "among": ["base", "slow"], "statement": "The fewest."},
        {"kind": "equivalence", "conditions": [NO_LOSS], "control": [LOSES], "untrue": {"ours/fid_minus_base": 1.5}},
        {"conditions": [FASTER | {"op": ">"}], "contradicted": "50 ms against 120"},
        {"conditions": [FASTER, TWICE], "untrue": {"base/ms": 90.0}, "statement": "Over 1.9 times faster."},
        {"conditions": [FASTER], "baseline": [TRAINED], "untrue": {"base/fid": 9.0}},
        {"conditions": [FASTER, TWICE | {"right": "slow/ms"}], "statement": "Each is.", "among": ["ours", "slow"]}
        | {"conditions": [FASTER, {"left": "ours/ms", "op": "<", "right": "slow/ms"}]},
        {
            "kind": "figure",
            "conditions": [
                {"left": "ours/ms", "op": "<=", "right": "base/ms", "factor": 0.5},
                {"left": "ours/ms", "op": ">=", "right": "base/ms", "factor": 0.35},
            ],
            "untrue": {"ours/ms": [65.0, 40.0]},
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
        {"conditions": [TWICE | {"factor": 1.5}], "untrue": {"base/ms": 90.0}, "statement": "Over 2.5 times faster."},
        "in the untrue world it holds: base/ms >= ours/ms × 1.5: 90 against 50",
    ),
    "nobody says where it stops giving way": ({"conditions": [TWICE]}, "show where, as the claim's `untrue`"),
    "one condition hides behind another": (
        {"conditions": [TWICE, {**TRAINED, "margin": 1e6}], "untrue": {"base/ms": 90.0, "ours/fid": 14.0}},
        "ours/fid <= base/fid × 1.1 + 1e+06 gives way by a factor, a margin or a bound: show where",
    ),
    "a bound is shown far off": (
        {"conditions": [TWICE], "untrue": {"base/ms": 60.0}},
        "base/ms >= ours/ms × 2 gives way by a factor, a margin or a bound: show where",
    ),
    "equal networks pass one of two conditions": (
        {"conditions": [FASTER, {"left": "ours/fid_minus_base", "op": ">=", "right": 0}]},
        "ours/fid_minus_base >= 0 hides behind another condition",
    ),
    "an absolute bound is not shown": (
        {"conditions": [{"left": "ours/ms", "op": "<=", "right": 5000}]},
        "ours/ms <= 5000 gives way by a factor, a margin or a bound: show where",
    ),
    "a baseline that cannot be missed": (
        {"conditions": [FASTER], "baseline": [{**TRAINED, "factor": 100}], "untrue": {"ours/fid": 14.0}},
        "in the untrue world it holds",
    ),
    "one of two controls cannot lose": (
        {
            "kind": "equivalence",
            "conditions": [NO_LOSS],
            "control": [LOSES, {"left": "broken/fid_minus_base", "op": ">", "right": -1}],
            "untrue": {"ours/fid_minus_base": 1.5},
        },
        "in the equal world it is not bed not sensitive",
    ),
    "the paper is said to contradict what it does not": (
        {"conditions": [FASTER], "contradicted": "50 ms against 120"},
        "in the paper world it holds",
    ),
    "a contradicted claim that cannot hold": (
        {"conditions": [{**FASTER, "op": ">", "factor": 9}], "contradicted": "50 ms against 120"},
        "in the reversed world it does not hold",
    ),
    "an example in place of what follows from the paper's numbers": (
        {
            "conditions": [{"left": "ours/fid_minus_base", "op": "<", "right": 0}],
            "world": {"ours/fid_minus_base": -5.0},
        },
        "the paper gives 0.1 for ours/fid_minus_base",
    ),
    "a world that is at odds with itself": (
        {
            "conditions": [{"left": "slow/fid_minus_base", "op": "<", "right": 0}, {**LOSES, "left": "slow/fid"}],
            "world": {"slow/fid": 20.0, "slow/fid_minus_base": -5.0},
        },
        "7.5 for slow/fid_minus_base follows from the rest of the claim's `world`",
    ),
    "it says how much and is no figure": (
        {"conditions": [TWICE], "untrue": {"base/ms": 90.0}, "statement": "It is 2 times faster."},
        "'2 times' says how much: make it a figure",
    ),
    "it says which part and has one side": (
        {"conditions": [TWICE], "untrue": {"base/ms": 90.0}, "statement": "It is better at half of the time."},
        "'half of' says how much: bound one cell on both sides",
    ),
    "the cheapest of none": (
        {"conditions": [FASTER], "statement": "The cheapest of them."},
        "'cheapest' is a superlative: name the rows",
    ),
    "every one of none": (
        {"conditions": [FASTER], "statement": "Every network is slower."},
        "'Every': name the rows that are meant",
    ),
    "every one but one": (
        {"conditions": [FASTER], "statement": "Whatever the network, it is slower.", "among": ["base", "slow"]},
        "no condition is about slow",
    ),
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
            "untrue": {"ours/ms": [65.0, 11.0]},
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
    """By hand: 12.6 - 12.5 of cells; 25.6 / 24.2 and 24.2 / 31.7 across tables; 13.64 / 13.71 of two curves."""
    assert (
        audited(kind="superiority", conditions=[{**LOSES, "left": "ours/fid_minus_base"}])
        .numbers["paper"]
        .startswith("ours/fid_minus_base > 0: 0.1 against 0")
    )
    by_id = {one.claim.id: one for one in audit.audit()}
    assert "table2-dpm++/distance_shapes_ratio > 1: 1.058 " in by_id["distilled-8-beat-undistilled-8"].numbers["paper"]
    assert (
        "8/distance_shapes_over_ddim < 1: 0.7634 " in by_id["eight-distilled-beat-eight-undistilled"].numbers["paper"]
    )
    reached = by_id["eight-steps-reach-the-fid-of-fifty"]
    assert "best_fid_shapes_ratio <= 1.1: 0.9949 " in reached.numbers["paper"]
    assert reached.origins["curve-ours/best_fid_shapes_ratio"] == audit.INFERRED  # digitised
    assert by_id["half-a-second-on-phones"].origins == {"iphone15pro-mobilediffusion-1/total_ms": audit.OWN}
    assert audit.EQUAL not in by_id["half-a-second-on-phones"].verdicts


def test_an_origin_is_the_worst_of_what_a_number_is_made_of() -> None:
    worse = {"left": "slow/fid", "op": ">", "right": "base/fid"}

    def origin(given: float | str) -> str:
        return audited(conditions=[worse], world={"slow/fid": given}).origins["slow/fid"]

    assert origin("ours/fid") == origin("base/fid + ours/fid") == audit.FOLLOWS
    assert origin("base/fid + guessed/fid") == origin("guessed/fid") == audit.INFERRED
    assert origin("guessed/fid + remembered/fid") == audit.RECALLED
    assert origin("base/fid + 7") == origin(20.0) == audit.EXAMPLE
    by_id = {one.claim.id: one for one in audit.audit()}
    assert by_id["unet-fewest-macs"].origins["sd15/macs"] == audit.RECALLED
    assert by_id["unet-fewest-macs"].origins["mobilediffusion/macs"] == audit.OWN


def test_claims_whose_world_holds_examples_alone_are_counted() -> None:
    worse = {"left": "slow/fid", "op": ">", "right": "broken/fid"}
    assert not audited(conditions=[worse], world={"slow/fid": 20.0}).examples_only
    assert audited(conditions=[{"left": "slow/fid", "op": ">", "right": 7.0}], world={"slow/fid": 8.0}).examples_only


@pytest.mark.parametrize("given", ["ours/fid + ", "ours/fid ^ base/fid", "slow/fid", "ours/fid - slow/fid"])
def test_an_expression_that_cannot_be_worked_out_is_named(given: str) -> None:
    worse = {"left": "slow/fid", "op": ">", "right": "base/fid"}
    (fault,) = audited(conditions=[worse], world={"slow/fid": given}).faults
    assert "expected a cell or two with one of" in fault or "the paper has no figure for " in fault
    assert fault.startswith(repr(given))


def test_the_command_prints_every_claim_and_fails_where_one_does(cli_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, error = cli_run("audit", "claims")
    assert (code, error) == (0, "")
    total, examples = len(audit.audit()), sum(one.examples_only for one in audit.audit())
    passed, more = out.splitlines()[-1].split("; ")
    assert passed == f"{total} of {total} claims pass"
    assert more == f"the paper's world of {examples} holds examples alone"
    assert 0 < examples < total / 2
    assert "unet-fewer-params-than-bk-sdm-tiny: the paper contradicts itself: 386M against 330M" in out.splitlines()
    spec = table(conditions=[FASTER | {"op": ">"}])
    monkeypatch.setattr(audit, "audit", lambda: [audit.audit_claim(spec, spec.claims[0])])
    code, out, error = cli_run("audit", "claims")
    assert (code, error) == (1, "")
    assert "it (small-table): in the paper world it does not hold: ours/ms > base/ms: 50 against 120" in out
    code, out, error = cli_run("audit", "claims", "--json")
    (one,) = json.loads(out)
    assert (code, one["kind"], one["verdicts"]["paper"]) == (1, "superiority", "does not hold")
