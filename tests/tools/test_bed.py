"""Rules for steps and guidance on scenes: by hand, and their bounds against the papers' data."""

import numpy as np
import pytest

from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from tools import bed


def test_the_bounds_are_the_papers() -> None:
    table = ledger.find("snapfusion-step-distillation")
    values = {cell.row: cell.value for cell in table.cells if cell.column == "fid"}
    assert values["table2-dpm"] == pytest.approx(20.1 * bed.LOST)
    curve = {row: value for row, value in values.items() if row.startswith("fig4-sd15-cfg-") and value is not None}
    assert min(curve, key=curve.__getitem__) == "fig4-sd15-cfg-2.5"
    assert values["fig4-sd15-cfg-8.5"] == pytest.approx(bed.SWEPT * curve["fig4-sd15-cfg-2.5"])


def test_the_most_steps_that_lose_enough_stand_for_eight() -> None:
    assert bed.steps_that_stand_for_eight({2: 5.0, 4: 1.6, 8: 1.5}, 1.0) == 4
    assert bed.steps_that_stand_for_eight({2: 5.0, 4: 1.6, 8: 1.6}, 1.0) == 8
    assert bed.steps_that_stand_for_eight({2: 5.0, 4: 1.6, 8: 1.6}, 1.1) == 2
    with pytest.raises(BadInput, match="there is nothing to distil"):
        bed.steps_that_stand_for_eight({2: 1.5, 4: 1.2, 8: 1.1}, 1.0)


def test_guidance_ends_where_the_distance_is_still_within_the_bound_of_the_least() -> None:
    assert bed.last_scale({1.0: 1.2, 1.5: 1.0, 3.0: 1.4, 3.5: 1.5}) == 3
    assert bed.last_scale({1.0: 1.2, 1.5: 0.9, 3.0: 1.4, 3.5: 1.5}) == 1.5
    assert bed.last_scale({1.0: 2.0, 1.5: 1.5, 3.0: 1.4, 3.5: 1.3}) == 3.5
    assert bed.last_scale({1.0: 1.2, 1.5: 1.0, 2.0: 1.04, 3.0: 1.4}, bed.NEAR) == 2


def test_the_distance_of_moved_and_scaled_features_is_known() -> None:
    """|m|^2 + (s - 1)^2 tr S, for features that are scaled by s and moved by m."""
    x = np.random.default_rng(0).normal(size=(200, 3))
    x -= x.mean(axis=0)
    moved = 1.5 * x + np.array([1.0, 0.0, 2.0])
    assert bed.paired_distance(moved, x) == pytest.approx(5 + 0.25 * np.trace(np.cov(x.T)))
    assert bed.paired_distance(x, x) == pytest.approx(0, abs=1e-9)


def test_the_report_has_both_tables_and_the_choice() -> None:
    by_steps = {2: [5.0, 5.2], 4: [0.7, 0.74], 8: [0.47, 0.49], 50: [0.4, 0.4]}
    text = bed.report(by_steps, {1.5: 0.3, 3.0: 0.4, 3.5: 0.5})
    assert "| 4 | 0.70, 0.74 | 0.72 | 1.80 |" in text
    assert "| 3.5 | 0.50 | 1.67 |" in text
    assert text.endswith(
        "4 steps stand for the papers' 8 (at least 1.58); guidance ends at 3 (at most 1.42); "
        "a table of one scale takes 1.5 (at most 1.05)."
    )
