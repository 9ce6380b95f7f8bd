"""Intervals over clusters: Student's by scipy, and the coverage they promise."""

import numpy as np
import pytest
from scipy import stats

from mdrepro.metrics.jackknife import cluster_interval, paired_interval


@pytest.mark.parametrize("n", [2, 5, 40, 130])
def test_single_members_have_the_interval_of_student(n):
    values = np.random.default_rng(3).normal(size=n)
    ours, theirs = cluster_interval([[v] for v in values]), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert ours.value == pytest.approx(values.mean(), abs=1e-12)
    wide = 0.5 if n > 50 else 1e-9  # beyond 50 clusters they are put into groups
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=wide)
    assert (ours.n, ours.by_seed) == (n, ())


def test_photographs_count_alike_whatever_their_number_of_tiles():
    assert cluster_interval([[0.0] * 9, [1.0]]).value == 0.5


@pytest.mark.parametrize("clusters", [30, 5, 3])
def test_coverage_with_members_that_are_not_independent(clusters):
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(1000):
        interval = cluster_interval(rng.normal(size=(clusters, 1)) + 0.1 * rng.normal(size=(clusters, 8)))
        held += interval.low <= 0 <= interval.high
    assert 0.93 <= held / 1000 <= 0.97


def test_paired_differences_are_narrower_than_unpaired_and_signed():
    chance = np.random.default_rng(0)
    second = chance.normal(20, 5, size=(6, 4))
    first = second + 3 + 0.01 * chance.normal(size=(6, 4))
    gain = paired_interval(list(first), list(second))
    assert gain.value == pytest.approx(3, abs=0.02)
    assert gain.high - gain.low < 0.05 < cluster_interval(list(first)).high - cluster_interval(list(first)).low


@pytest.mark.parametrize("clusters", [[], [[1.0]], [[1.0], []], [[1.0], [float("nan")]], [[1.0], [float("inf")]]])
def test_refuses_what_has_no_interval(clusters):
    with pytest.raises(ValueError, match="cluster"):
        cluster_interval(clusters)


def test_refuses_pairs_of_different_size():
    with pytest.raises(ValueError, match="differ"):
        paired_interval([[1.0, 2.0], [1.0]], [[1.0], [1.0]])
