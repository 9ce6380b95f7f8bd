"""The ledger: which verdict a measured number gets, and what claims and reruns say."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.papers.claims import Claim, ClaimVerdict, seeds_to_decide
from mdrepro.papers.schema import Column, Table, Verdict

TABLE = Table.model_validate(
    {
        "id": "paper-table",
        "title": "A table",
        "published_as": "Table 1",
        "protocol": "as published",
        "rows": {"ours": "", "sd": "", "lite": "", "guess": "", "memory": "", "fitted": ""},
        "columns": {
            "params": {
                "title": "Parameters",
                "tolerance": {"relative": 0.01},
                "rerun": {"relative": 1e-9},
                "comparable_at": ["quick", "proxy", "paper"],
            },
            "psnr": {
                "title": "PSNR",
                "tolerance": {"absolute": 0.5},
                "rerun": {"absolute": 0.1},
                "comparable_at": ["paper"],
            },
        },
        "cells": [
            {"row": "ours", "column": "params", "value": 100, "confidence": "read-P", "source": "P"},
            {
                "row": "lite",
                "column": "params",
                "value": 100,
                "confidence": "read-S",
                "source": "P",
                "tolerance": {"absolute": 10},
            },
            {"row": "guess", "column": "params", "value": 100, "confidence": "inferred", "source": "P"},
            {"row": "memory", "column": "params", "value": 100, "confidence": "recalled", "source": "P"},
            {"row": "sd", "column": "params", "confidence": "not found"},
            {"row": "ours", "column": "psnr", "value": 30, "confidence": "read-P", "source": "P"},
            {
                "row": "fitted",
                "column": "params",
                "value": 100,
                "confidence": "read-P",
                "source": "P",
                "constructed": "chosen to fit",
            },
            {"row": "sd", "column": "psnr", "text": "no loss", "confidence": "read-P", "source": "P"},
        ],
    }
)


@pytest.mark.parametrize(
    ("tier", "row", "column", "value", "ci", "verdict"),
    [
        ("quick", "ours", "params", 100.9, None, Verdict.REPRODUCED),
        ("quick", "ours", "params", 101.1, None, Verdict.DIFFERS),
        ("quick", "ours", "params", 103, (99.5, 106), Verdict.WITHIN_NOISE),
        ("quick", "ours", "params", 103, (101.5, 106), Verdict.DIFFERS),
        ("quick", "ours", "params", None, None, Verdict.NOT_ATTEMPTED),
        ("quick", "lite", "params", 109, None, Verdict.REPRODUCED),  # the cell's own, wider tolerance
        ("quick", "lite", "params", 111, None, Verdict.DIFFERS),
        ("quick", "fitted", "params", 100.9, None, Verdict.BY_CONSTRUCTION),
        ("quick", "fitted", "params", 101.1, None, Verdict.DIFFERS),
        ("quick", "guess", "params", 100, None, Verdict.UNCONFIRMED),
        ("quick", "memory", "params", 100, None, Verdict.UNCONFIRMED),
        ("quick", "memory", "params", 500, None, Verdict.UNCONFIRMED),
        ("quick", "sd", "params", 100, None, Verdict.NO_FIGURE),  # not found
        ("paper", "sd", "psnr", 30, None, Verdict.NO_FIGURE),  # in words only
        ("paper", "lite", "psnr", 30, None, Verdict.NO_FIGURE),  # no cell at all
        ("quick", "ours", "psnr", 30, None, Verdict.NOT_COMPARABLE),
        ("proxy", "ours", "psnr", 30, (29, 31), Verdict.NOT_COMPARABLE),
        ("paper", "ours", "psnr", 30.4, None, Verdict.REPRODUCED),
        ("quick", "ours", "psnr", None, None, Verdict.NOT_ATTEMPTED),
        ("quick", "ours", "params", float("nan"), None, Verdict.DIFFERS),
    ],
)
def test_verdict(
    tier: str, row: str, column: str, value: float | None, ci: tuple[float, float] | None, verdict: Verdict
) -> None:
    assert ledger.judge(TABLE, tier, row, column, value, ci) is verdict


@pytest.mark.parametrize(
    ("value", "published", "agrees"),
    [(1.0, 1.0, True), (1.0 + 1e-12, 1.0, True), (1.001, 1.0, False), (None, 1.0, None), (1.0, None, None)],
)
def test_agreement_with_the_published_run_uses_the_rerun_tolerance(
    value: float | None, published: float | None, agrees: bool | None
) -> None:
    column: Column = TABLE.columns["params"]
    assert ledger.agrees(column, value, published) is agrees


def claim(*conditions: dict[str, Any], **more: Any) -> Claim:
    fields = {"id": "claim", "statement": "s", "source": "P", "confidence": "read-P", "kind": "superiority"}
    return Claim.model_validate({**fields, "conditions": conditions, **more})


def row(name: str, column: str, value: float | None, ci: tuple[float, float] | None = None) -> dict[str, Any]:
    low, high = ci or (None, None)
    return {"row": name, "column": column, "value": value, "ci_low": low, "ci_high": high}


FEWER = {"left": "lite/params", "op": "<=", "right": "ours/params", "factor": 0.26}
BETTER = {"left": "lite/psnr", "op": ">", "right": "sd/psnr"}
SIZES = [row("lite", "params", 9.8), row("ours", "params", 39.3)]


@pytest.mark.parametrize(
    ("lite", "sd", "verdict"),
    [
        (row("lite", "psnr", 30.2, (30, 30.4)), row("sd", "psnr", 26.7, (26, 27)), ClaimVerdict.HOLDS),
        (row("lite", "psnr", 27.2, (26.5, 28)), row("sd", "psnr", 26.7, (26, 27)), ClaimVerdict.WITHIN_NOISE),
        (row("lite", "psnr", 25.0, (24, 25.5)), row("sd", "psnr", 26.7, (26, 27)), ClaimVerdict.FAILS),
        (row("lite", "psnr", None), row("sd", "psnr", 26.7), ClaimVerdict.NOT_ATTEMPTED),
    ],
)
def test_claim_is_as_strong_as_its_weakest_condition(
    lite: dict[str, Any], sd: dict[str, Any], verdict: ClaimVerdict
) -> None:
    assert ledger.judge_claim(claim(FEWER, BETTER), [*SIZES, lite, sd])[0] is verdict


def test_claim_that_fails_in_one_part_fails_whatever_is_missing() -> None:
    too_large = [row("lite", "params", 20), row("ours", "params", 39.3)]
    verdict, words = ledger.judge_claim(claim(BETTER, FEWER), too_large)
    assert verdict is ClaimVerdict.FAILS
    assert "not measured: lite/psnr, sd/psnr" in words
    assert "20 against 39.3" in words


def test_claim_shows_its_numbers_and_intervals() -> None:
    rows = [row("lite", "psnr", 30.25, (30, 30.5)), row("sd", "psnr", 26.7)]
    _, words = ledger.judge_claim(claim(BETTER), rows)
    assert words == "lite/psnr > sd/psnr: 30.25 [30, 30.5] against 26.7"


KEEPS = {"left": "lite/psnr", "op": ">=", "right": "ours/psnr", "margin": -0.5}
LOSES = {"left": "sd/psnr", "op": "<", "right": "ours/psnr", "margin": -0.5}


@pytest.mark.parametrize(
    ("lite", "sd", "verdict"),
    [
        ((30.0, (29.8, 30.2)), (26.0, (25.0, 27.0)), ClaimVerdict.HOLDS),
        ((30.0, (29.0, 31.0)), (26.0, (25.0, 27.0)), ClaimVerdict.WITHIN_NOISE),
        ((28.0, (27.5, 28.5)), (26.0, (25.0, 27.0)), ClaimVerdict.FAILS),
        ((30.0, (29.8, 30.2)), (30.0, (29.8, 30.2)), ClaimVerdict.NOT_SENSITIVE),  # equal networks
        ((30.0, (29.8, 30.2)), (29.4, (29.0, 29.8)), ClaimVerdict.NOT_SENSITIVE),  # the control is not decided
        ((30.0, (29.8, 30.2)), (None, None), ClaimVerdict.NOT_SENSITIVE),  # nor is it where it was not measured
        ((30.0, (29.0, 31.0)), (30.0, (29.8, 30.2)), ClaimVerdict.NOT_SENSITIVE),
        ((28.0, (27.5, 28.5)), (30.0, (29.8, 30.2)), ClaimVerdict.FAILS),  # a loss that is seen needs no control
        ((None, None), (26.0, (25.0, 27.0)), ClaimVerdict.NOT_ATTEMPTED),
    ],
)
def test_nothing_is_lost_where_the_control_is_seen_to_lose(lite: Any, sd: Any, verdict: ClaimVerdict) -> None:
    rows = [row("lite", "psnr", *lite), row("sd", "psnr", *sd), row("ours", "psnr", 30.0)]
    found, words = ledger.judge_claim(claim(KEEPS, kind="equivalence", control=[LOSES]), rows)
    assert found is verdict
    assert ("positive control: sd/psnr < ours/psnr − 0.5: " in words) == (verdict is not ClaimVerdict.NOT_ATTEMPTED)


@pytest.mark.parametrize(
    ("ours", "sd", "verdict"),
    [
        (29.9, 26.0, ClaimVerdict.HOLDS),
        (20.0, 18.0, ClaimVerdict.NOT_SENSITIVE),  # better than what was hardly trained
        (None, 18.0, ClaimVerdict.NOT_SENSITIVE),
        (29.9, 31.0, ClaimVerdict.FAILS),
        (20.0, 31.0, ClaimVerdict.FAILS),
    ],
)
def test_a_method_is_compared_with_one_that_was_trained_well_enough(
    ours: float | None, sd: float, verdict: ClaimVerdict
) -> None:
    trained = {"left": "ours/psnr", "op": ">=", "right": 29}
    rows = [row("ours", "psnr", ours), row("lite", "psnr", 30.0), row("sd", "psnr", sd)]
    found, words = ledger.judge_claim(claim(BETTER, baseline=[trained]), rows)
    assert found is verdict
    assert "; baseline: ours/psnr >= 29: " in words


def sample(seeds: int, mean: float) -> Any:
    """Numbers of so many training seeds with this mean and a standard deviation of 2."""
    spread = np.arange(seeds) - (seeds - 1) / 2
    return mean + 2 * spread / np.std(spread, ddof=1)


@pytest.mark.parametrize(("seeds", "mean", "threshold"), [(3, 1.0, 0.0), (3, -1.0, 0.0), (5, 3.0, 4.6), (2, 0.5, 0.0)])
def test_seeds_to_decide_are_those_whose_t_interval_leaves_out_the_threshold(
    seeds: int, mean: float, threshold: float
) -> None:
    """Against scipy's one-sample t interval of samples with that mean and spread, one seed less and as many."""

    def interval(count: int) -> Any:
        return ttest_1samp(sample(count, mean), threshold).confidence_interval()

    now = interval(seeds)
    assert now.low < threshold < now.high
    enough = seeds_to_decide(mean, now.low, now.high, seeds, threshold)
    assert enough is not None
    assert enough > seeds
    before, decided = interval(enough - 1), interval(enough)
    assert before.low < threshold < before.high
    assert not decided.low <= threshold <= decided.high


def test_seeds_to_decide_of_many_follow_the_normal_quantile() -> None:
    """n = (z s / d)^2, one or two more for t; of an asymmetric interval the half towards the threshold counts."""
    half = ttest_1samp(sample(9, 0.2), 0).confidence_interval().high - 0.2
    enough = seeds_to_decide(0.2, 0.2 - half, 99.0, 9, 0.0)
    assert enough is not None
    assert 0 <= enough - (1.959964 * 2 / 0.2) ** 2 < 3
    assert seeds_to_decide(0.2, -99.0, 0.2 + half, 9, 0.4) == enough
    assert seeds_to_decide(0.01, 0.01 - half, 1.0, 9, 0.0) is None  # some 150,000
    for low, count in ((-1.0, 1), (0.3, 3)):
        with pytest.raises(ValueError, match="expected two seeds"):
            seeds_to_decide(0.2, low, 1.0, count, 0.0)


def test_an_undecided_claim_says_how_many_training_seeds_would_decide() -> None:
    ours, sd = row("lite", "psnr", 27.2, (26.5, 28)), row("sd", "psnr", 26.7, (26, 27))

    def words(**more: Any) -> str:
        verdict, found = ledger.judge_claim(claim(BETTER), [ours | more, sd | more])
        assert verdict is ClaimVerdict.WITHIN_NOISE
        return found.partition("[26, 27]")[2]

    enough = seeds_to_decide(27.2 - 26.7, 26.5 - 27, 28 - 26, 3, 0)
    assert words(seeds=3) == f" ({enough} training seeds would decide)"
    assert words(seeds=1) == " (one training seed cannot say how many would decide)"
    assert words() == ""
    clear = [row("lite", "psnr", 28.5, (28.4, 28.6)) | {"seeds": 3}, sd | {"seeds": 3}]
    assert ledger.judge_claim(claim(BETTER), clear)[1].endswith("against 26.7 [26, 27] (3 training seeds)")
    clear[1] |= {"seeds": 1}
    assert ledger.judge_claim(claim(BETTER), clear)[1].endswith("against 26.7 [26, 27] (one training seed)")
    close = [row("lite", "psnr", 26.71, (20, 28)) | {"seeds": 3}, sd]
    assert ledger.judge_claim(claim(BETTER), close)[1].endswith(" (not decided by 1000 training seeds)")


def test_what_was_put_in_holds_by_construction_and_can_still_fail() -> None:
    fitted = claim(FEWER, constructed="the layout was chosen for it")
    assert ledger.judge_claim(fitted, SIZES)[0] is ClaimVerdict.BY_CONSTRUCTION
    assert ledger.judge_claim(fitted, [row("lite", "params", 20), SIZES[1]])[0] is ClaimVerdict.FAILS
    guessed = fitted.model_copy(update={"confidence": "inferred"})
    verdict, words = ledger.judge_claim(guessed, SIZES)
    assert verdict is ClaimVerdict.UNCONFIRMED
    assert words.startswith("inferred; as written it is by construction: ")


def test_blog_claims_on_the_blogs_own_figures() -> None:
    """The published table, fed back as if measured, upholds every claim drawn from it."""
    table = ledger.find("mobilediffusion-vae-reconstruction")
    rows = [row(cell.row, cell.column, cell.value) for cell in table.cells if cell.value is not None]
    verdicts = {one.id: ledger.judge_claim(one, rows)[0] for one in table.claims}
    assert verdicts == {
        "eight-channels-beat-four": ClaimVerdict.HOLDS,
        "lite-decoder-not-worse": ClaimVerdict.HOLDS,
        "lite-decoder-beats-sd": ClaimVerdict.HOLDS,
        "vae-lower-lpips": ClaimVerdict.NOT_ATTEMPTED,  # published without naming the backbone
    }


def test_a_recalled_or_inferred_claim_never_holds_and_never_fails() -> None:
    unsure = 0
    for table in ledger.tables(planned=True).values():
        rows = [row(cell.row, cell.column, cell.value) for cell in table.cells if cell.value is not None]
        for claim in table.claims:
            if claim.confidence in ("recalled", "inferred"):
                verdict, words = ledger.judge_claim(claim, rows)
                assert verdict in (ClaimVerdict.UNCONFIRMED, ClaimVerdict.NOT_ATTEMPTED)
                assert claim.confidence in words or verdict is ClaimVerdict.NOT_ATTEMPTED
                unsure += 1
    assert unsure >= 3


def test_on_pictures_claims_are_judged_on_the_columns_of_pictures() -> None:
    """Conditions on what scenes alone have are left out; with scenes measured, nothing is renamed."""
    table = ledger.find("mobilediffusion-steps")
    claims = {one.id: one.model_copy(update={"confidence": "read-P"}) for one in table.claims}
    pictures = [row("1", "fid_over_ddim", 0.4), row("1", "fid_over_50", 1.3), row("1-ddim", "fid_over_50", 3.0)]
    one_step = claims["one-step-beats-undistilled"]
    verdict, words = ledger.judge_claim(one_step, pictures, table.on_pictures)
    assert (verdict, words) == (ClaimVerdict.HOLDS, "1/fid_over_ddim < 0.5: 0.4 against 0.5")
    near, words = ledger.judge_claim(claims["one-step-near-50-steps"], pictures, table.on_pictures)
    assert near is ClaimVerdict.NOT_ATTEMPTED
    assert "not measured: 1/clip_over_50" in words
    scenes = [*pictures, row("1", "distance_shapes_over_ddim", 2.0), row("1", "attribute_accuracy_minus_ddim", 0.1)]
    verdict, words = ledger.judge_claim(one_step, scenes, table.on_pictures)
    assert verdict is ClaimVerdict.FAILS
    assert "1/distance_shapes_over_ddim < 0.5" in words
    assert "attribute_accuracy" in words


def test_what_stands_for_scenes_covers_all_conditions_of_tables_that_run_on_pictures() -> None:
    for table in ledger.tables().values():
        if table.on_pictures and {"proxy", "paper"} & table.tiers.keys():
            used = {cell.split("/")[1] for claim in table.claims for cell in claim.cells()}
            assert all(column in table.on_pictures for column in used if "shapes" in column or "accuracy" in column)
            measured = {*table.on_pictures.values()}
            assert not measured & {*table.on_pictures}


def test_find_names_all_tables_for_an_unknown_one() -> None:
    with pytest.raises(BadInput) as caught:
        ledger.find("mobilediffusion-unet-costs")
    message = str(caught.value)
    assert "did you mean mobilediffusion-unet-cost?" in message
    assert all(name in message for name in ledger.tables())


def test_planned_tables_are_listed_only_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    paper = ledger.papers()["snapfusion"]
    planned = paper.tables[0].model_copy(update={"id": "snapfusion-planned", "notebook": None, "tiers": {}})
    more = paper.model_copy(update={"tables": (*paper.tables, planned)})
    monkeypatch.setattr(ledger, "papers", lambda: {"snapfusion": more})
    assert planned.id in ledger.tables(planned=True)
    assert planned.id not in ledger.tables()
    assert ledger.find(planned.id, planned=True).id == planned.id
    with pytest.raises(BadInput, match="unknown table"):
        ledger.find(planned.id)


def test_unknown_tier_names_the_three() -> None:
    assert ledger.check_tier("quick") == "quick"
    with pytest.raises(BadInput, match=r"did you mean quick.*allowed: quick, proxy, paper"):
        ledger.check_tier("quik")


def test_every_table_knows_its_paper() -> None:
    for table in ledger.tables(planned=True).values():
        assert table.id.startswith(ledger.paper_of(table).id + "-")
