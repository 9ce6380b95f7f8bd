"""SnapFusion's breakdown on this machine: runs, totals, ratios and claims by hand, phones and notebook."""

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import host_latency, latency_breakdown
from mdrepro.reproduce.tables.latency_breakdown import IMAGES, NETWORKS, TABLE
from mdrepro.reproduce.workflow.record import complete
from tests.support.latencies import claims, constant, measured, of_a_phone, stubbed, values
from tests.support.notebooks import recorded

ONCE = constant(text_encoder=10, sd_decoder=384, snapfusion_decoder=120)
PAIRS = (
    ONCE
    | measured("sd15", [500.0] * 5, branches=2, memory_mb=6000)
    | measured("snapfusion", [250.0] * 5, branches=2, memory_mb=3240)
)


def test_rows_by_hand() -> None:
    found = values(latency_breakdown.rows(PAIRS))
    assert found["host-text-encoder", "total_ms"] == 20
    assert found["host-sd15-unet", "latency_ms"] == 500
    assert found["host-sd15-unet", "total_ms"] == 50 * 500
    assert found["host-ours-unet", "total_ms"] == 8 * 250
    assert found["host-ours-unet", "speedup"] == pytest.approx(12.5)
    assert found["host-ours-unet", "memory_saving"] == pytest.approx(46)
    assert found["host-ours-unet", "batch"] == 2
    assert found["host-ours-decoder", "speedup"] == pytest.approx(3.2)
    assert found["host-ours-image", "image_s"] == pytest.approx((2 * 10 + 8 * 250 + 120) / 1000)
    assert found["host-sd15-image", "image_s"] == pytest.approx((2 * 10 + 50 * 500 + 384) / 1000)
    assert found["host-ours-image", "unet_ms"] == 250
    assert found["host-sd15-unet", "params"] == pytest.approx(859.5, abs=0.1)
    assert found["host-ours-decoder", "params"] == pytest.approx(12.4, abs=0.1)


def test_one_branch_counts_twice_and_says_so() -> None:
    apart = ONCE | constant(sd15=300, snapfusion=140)
    rows = latency_breakdown.rows(apart)
    found = values(rows)
    assert found["host-sd15-unet", "latency_ms"] == 600
    assert found["host-sd15-unet", "batch"] == 1
    assert found["host-ours-image", "image_s"] == pytest.approx((20 + 8 * 280 + 120) / 1000)
    assert found["host-ours-image", "unet_ms"] == 280
    protocols = {(row.row, row.column): row.protocol for row in rows}
    assert "one branch, counted 2 times" in protocols["host-sd15-unet", "latency_ms"]
    both = {(row.row, row.column): row.protocol for row in latency_breakdown.rows(PAIRS)}
    assert "both branches in one evaluation" in both["host-sd15-unet", "latency_ms"]


def test_claims_follow_the_ratios() -> None:
    verdicts = claims(latency_breakdown.rows(PAIRS), TABLE)
    assert verdicts.pop("two-seconds-on-a-phone") == "not attempted"
    assert set(verdicts.values()) == {"holds"}
    slow = PAIRS | measured("snapfusion", [380.0] * 5, branches=2, memory_mb=5900) | constant(snapfusion_decoder=140)
    verdicts = claims(latency_breakdown.rows(slow), TABLE)
    assert verdicts["evolved-unet-faster"] == "does not hold"
    assert verdicts["half-width-decoder-faster"] == "does not hold"  # 384 against 2.88 x 140
    assert verdicts["evolved-unet-less-memory"] == "does not hold"
    assert verdicts["eight-steps-twelve-times-faster"] == "does not hold"  # 25000 against 12 x 3040
    too_fast = PAIRS | measured("snapfusion", [190.0] * 5, branches=2, memory_mb=3000)
    verdicts = claims(latency_breakdown.rows(too_fast), TABLE)
    assert verdicts["evolved-unet-faster"] == "does not hold"  # 2.6 times is not about twice
    assert verdicts["eight-steps-twelve-times-faster"] == "holds"


def test_rows_are_declared_whatever_was_measured() -> None:
    spec = ledger.find(TABLE)
    complete(spec, latency_breakdown.rows(PAIRS))
    some = latency_breakdown.rows(constant(text_encoder=1))
    complete(spec, some)
    reasons = {(row.row, row.column): row.reason for row in some}
    assert "snapfusion, snapfusion-decoder" in reasons["host-ours-image", "image_s"]
    complete(spec, latency_breakdown.rows({}))


def test_phones_records_cover_both_branches() -> None:
    parts = [
        of_a_phone("text-encoder", 4, device="iPhone 14 Pro"),
        of_a_phone("unet", 230, device="iPhone 14 Pro", model="snapfusion", batch=2),
        of_a_phone("decoder", 116, device="iPhone 14 Pro", model="snapfusion"),
    ]
    found = values(latency_breakdown.phone_rows(parts))
    assert found["iphone14pro-ours-image", "image_s"] == pytest.approx((2 * 4 + 8 * 230 + 116) / 1000)
    assert claims(latency_breakdown.phone_rows(parts), TABLE)["two-seconds-on-a-phone"] == "holds"
    parts[1] = parts[1].model_copy(update={"batch": 1})
    assert ("iphone14pro-ours-image", "image_s") not in values(latency_breakdown.phone_rows(parts))


def test_networks_of_this_table_alone() -> None:
    assert host_latency.select(["all"], NETWORKS) == list(NETWORKS)
    with pytest.raises(BadInput, match="allowed: text-encoder, sd15, sd-decoder"):
        host_latency.select(["mobilediffusion"], NETWORKS)


@pytest.mark.parametrize("branches", [1, 2])
def test_notebook_runs_to_its_record(monkeypatch: pytest.MonkeyPatch, branches: int) -> None:
    monkeypatch.setattr(host_latency, "measure", stubbed)
    monkeypatch.setattr(host_latency, "keep", lambda *_: None)
    rows, figures = recorded(TABLE, monkeypatch, resolution=128, branches=branches)
    complete(ledger.find(TABLE), rows)
    assert {row.row for row in rows} >= set(IMAGES)
    assert values(rows)["host-sd15-unet", "batch"] == branches
    assert figures == ["work", "image"]
