"""The bootstrap against scipy, a closed form, and the coverage it promises."""

import numpy as np
import pytest
from scipy import stats

from mdrepro.metrics.bootstrap import cluster_interval, paired_interval


def test_equals_scipy_on_single_member_clusters():
    values = np.random.default_rng(3).normal(size=40)
    ours = cluster_interval([[v] for v in values], resamples=50_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=50_000, method="percentile", rng=1).confidence_interval
    assert ours.value == pytest.approx(values.mean(), abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_two_clusters_have_the_closed_form():
    interval = cluster_interval([[0.0], [1.0]])  # resampled means 0, 1/2, 1 with chances 1/4, 1/2, 1/4
    assert (interval.value, interval.low, interval.high, interval.n) == (0.5, 0.0, 1.0, 2)
    narrow = cluster_interval([[0.0], [1.0]], level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_photographs_count_alike_whatever_their_number_of_tiles():
    assert cluster_interval([[0.0] * 9, [1.0]]).value == 0.5


@pytest.mark.parametrize("clusters", [30, 5])
def test_coverage_with_members_that_are_not_independent(clusters):
    chance = np.random.default_rng(1)
    held = 0
    for trial in range(2000):
        centres = chance.normal(size=(clusters, 1))
        interval = cluster_interval(centres + 0.1 * chance.normal(size=(clusters, 8)), seed=trial, resamples=1000)
        held += interval.low <= 0 <= interval.high
    spread = stats.norm.ppf(0.975) * np.sqrt((clusters - 1) / clusters)  # the plug-in standard deviation is that narrow
    assert held / 2000 == pytest.approx(1 - 2 * stats.t.sf(spread, clusters - 1), abs=0.02)


def test_paired_differences_are_narrower_than_unpaired_and_signed():
    chance = np.random.default_rng(0)
    second = chance.normal(20, 5, size=(6, 4))
    first = second + 3 + 0.01 * chance.normal(size=(6, 4))
    gain = paired_interval(list(first), list(second))
    assert gain.value == pytest.approx(3, abs=0.02)
    assert gain.high - gain.low < 0.05 < cluster_interval(list(first)).high - cluster_interval(list(first)).low


def test_same_seed_same_interval():
    values = [[1.0], [5.0], [2.0], [4.5]]
    assert cluster_interval(values, seed=1) == cluster_interval(values, seed=1)
    assert cluster_interval(values, seed=1, resamples=99) != cluster_interval(values, seed=2, resamples=99)


@pytest.mark.parametrize("clusters", [[], [[1.0]], [[1.0], []], [[1.0], [float("nan")]], [[1.0], [float("inf")]]])
def test_refuses_what_has_no_interval(clusters):
    with pytest.raises(ValueError, match="cluster"):
        cluster_interval(clusters)


def test_refuses_pairs_of_different_size():
    with pytest.raises(ValueError, match="differ"):
        paired_interval([[1.0, 2.0], [1.0]], [[1.0], [1.0]])
