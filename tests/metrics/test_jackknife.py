"""Intervals over seeds and captions: textbook formulas, and the share of draws in which they hold the true value."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mdrepro.metrics import jackknife
from mdrepro.metrics.image import frechet, kernel
from mdrepro.metrics.jackknife import Estimate, Interval, means_without

Array = NDArray[np.float64]
DRAWS = 500


@pytest.fixture
def few_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer distances for each interval."""
    monkeypatch.setattr(jackknife, "GROUPS", 16)


def means(values: Array) -> Estimate:
    """Of values (seeds, captions)."""
    return Estimate.of([means_without(one) for one in values], values.shape[1])


def covered(truth: float, draw: Callable[[np.random.Generator], Interval | None], seed: int = 0) -> float:
    """The share of draws whose interval holds the true value."""
    rng = np.random.default_rng(seed)
    found = [draw(rng) for _ in range(DRAWS)]
    return float(np.mean([one is not None and one.low <= truth <= one.high for one in found]))


def test_values_without_a_group_are_those_of_the_captions_that_are_left() -> None:
    rng = np.random.default_rng(0)
    for n in (7, 50, 130):
        values, weights, of = rng.normal(size=n), rng.integers(1, 9, n), jackknife.groups(n)
        kept = [np.ones(n, bool), *(of != group for group in range(min(n, 50)))]
        assert means_without(values) == pytest.approx([values[k].mean() for k in kept])
        wanted = [values[k].sum() / weights[k].sum() for k in kept]
        assert means_without(values, weights) == pytest.approx(wanted)


@pytest.mark.parametrize("n", [3, 20, 50])
def test_the_mean_of_single_captions_has_the_interval_of_student(n: int) -> None:
    values = np.random.default_rng(n).normal(2, 3, n)
    mean = means(values[None]).mean()
    assert (mean.low, mean.high) == pytest.approx(stats.ttest_1samp(values, 0).confidence_interval(0.95))
    assert (mean.value, mean.n, mean.by_seed) == (pytest.approx(values.mean()), n, (pytest.approx(values.mean()),))


def test_unequal_groups_count_by_their_size() -> None:
    rng = np.random.default_rng(0)
    found = [means(rng.normal(size=(1, 74))).spread() for _ in range(400)]
    assert np.mean(found) == pytest.approx(1.98 / 74**0.5, rel=0.03)


def test_the_variance_is_that_of_the_two_way_layout() -> None:
    """Mean squares of 3 seeds and 50 captions by the textbook's sums."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 1)) + rng.normal(size=(1, 50)) + rng.normal(size=(3, 50))
    rows, columns = x.mean(axis=1, keepdims=True), x.mean(axis=0, keepdims=True)
    seeds = 50 * np.square(rows - x.mean()).sum() / 2
    captions = 3 * np.square(columns - x.mean()).sum() / 49
    both = np.square(x - rows - columns + x.mean()).sum() / 98
    between, within = seeds / 150, (captions - both) / 150
    t = (stats.t.ppf(0.975, 2) * between + stats.t.ppf(0.975, 49) * within) / (between + within)
    assert means(x).spread() == pytest.approx(t * (between + within) ** 0.5)


LAYOUTS = [(1, 0.0, 1, 0.5), (3, 0, 1, 1), (3, 2, 1, 1), (5, 0, 1, 0), (5, 0.1, 1, 1)]
MORE = [(3, 0, 1, 0), (3, 0.1, 1, 1), (5, 0, 1, 1), (5, 2, 1, 1)]


@pytest.mark.parametrize(
    ("seeds", "between", "captions", "both"),
    [*LAYOUTS, *(pytest.param(*layout, marks=pytest.mark.slow) for layout in MORE)],
)
def test_an_interval_of_a_mean_holds_it(seeds: int, between: float, captions: float, both: float) -> None:
    """Seeds that differ by nothing, by as much as chance in the captions does, and by far more."""

    def draw(rng: np.random.Generator) -> Interval:
        x = between * rng.normal(size=(seeds, 1)) + captions * rng.normal(size=100)
        return means(x + both * rng.normal(size=(seeds, 100))).mean()

    assert 0.92 <= covered(0, draw) <= 0.98


def test_what_both_rows_share_is_not_in_their_difference() -> None:
    rng = np.random.default_rng(0)
    seed, caption = rng.normal(size=(3, 1)), rng.normal(size=100)
    first, second = means(seed + caption + 0.25), means(seed + caption)
    found = (first - second).mean()
    assert (found.low, found.value, found.high, *found.by_seed) == pytest.approx((0.25,) * 6)
    fewer = means((seed + caption)[:2])
    assert (first - fewer).mean().by_seed == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(
    ("seeds", "share", "between"),
    [
        *[(1, 0.998, 0), (3, 0.98, 0.3)],
        *(pytest.param(*more, marks=pytest.mark.slow) for more in ((1, 0.9, 0), (3, 0.995, 0), (5, 0.9, 0.3))),
    ],
)
def test_an_interval_of_a_share_holds_it(seeds: int, share: float, between: float) -> None:
    z = np.random.default_rng(9).normal(size=100_000)
    logit = np.log(share / (1 - share))

    def draw(rng: np.random.Generator) -> Interval:
        each = 1 / (1 + np.exp(-logit - between * rng.normal(size=(seeds, 1))))
        return means((rng.uniform(size=(seeds, 1000)) < each).astype(float)).share()

    assert 0.92 <= covered(float(np.mean(1 / (1 + np.exp(-logit - between * z)))), draw) <= 0.98


def test_attributes_of_one_caption_go_wrong_together() -> None:
    def draw(rng: np.random.Generator) -> Interval:
        count = rng.integers(4, 12, 1000)
        wrong = np.where(rng.uniform(size=1000) < 0.04, rng.binomial(count, 0.5), 0)
        return Estimate.of([means_without(count - wrong, count)], 1000).share()

    assert 0.92 <= covered(0.98, draw) <= 0.98


def test_a_share_is_wilson_s_and_all_right_is_not_certain() -> None:
    values = (np.arange(400) % 8 > 0).astype(float)
    wilson = stats.binomtest(350, 400).proportion_ci(method="wilson")
    ones = means(np.ones((2, 400))).share()
    best = stats.binomtest(400, 400).proportion_ci(method="wilson")
    assert (ones.value, ones.high) == (1.0, 1.0)
    assert ones.low == pytest.approx(best.low, abs=0.001)
    rng = np.random.default_rng(0)
    drawn = [means(rng.permutation(values)[None]).share() for _ in range(200)]
    assert np.mean([one.low for one in drawn]) == pytest.approx(wilson.low, abs=0.004)
    assert np.mean([one.high for one in drawn]) == pytest.approx(wilson.high, abs=0.004)


Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]


def pair(shift: float, scale: float, alike: float, seeds: float = 0.0, width: int = 2) -> tuple[float, Draw]:
    """Features of n images, scale and mean other than those of their captions' renders, and the true distance."""

    def draw(rng: np.random.Generator, n: int, real: Array | None = None) -> tuple[Array, Array]:
        y = rng.normal(size=(n, width)) if real is None else real
        moved = shift * np.exp(seeds * rng.normal())
        return moved + scale * (alike * y + (1 - alike**2) ** 0.5 * rng.normal(size=y.shape)), y

    return width * (shift**2 * np.exp(2 * seeds**2) + (scale - 1) ** 2), draw


@pytest.mark.usefixtures("few_groups")
@pytest.mark.parametrize(
    ("shift", "scale", "alike"),
    [(0, 1, 0.5), *(pytest.param(*more, marks=pytest.mark.slow) for more in ((0.1, 1, 0.8), (0.3, 1.3, 0)))],
)
def test_a_paired_distance_is_unbiased_and_its_interval_holds_it(shift: float, scale: float, alike: float) -> None:
    truth, draw = pair(shift, scale, alike)
    values, plain = [], []

    def interval(rng: np.random.Generator) -> Interval:
        without = frechet.paired_distances_without(*draw(rng, 100))
        plain.append(without[0])
        values.append(jackknife.unbiased(without, 100)[0])
        return Estimate.of([jackknife.unbiased(without, 100)], 100).distance()

    assert 0.92 <= covered(truth, interval) <= 0.98
    error = np.std(values) / DRAWS**0.5
    assert np.mean(values) == pytest.approx(truth, abs=3 * error)
    assert np.mean(plain) > truth + 2 * error


@pytest.mark.usefixtures("few_groups")
def test_an_interval_over_seeds_holds_a_distance_and_a_ratio_of_two() -> None:
    """Three seeds whose distances are skewed: a third up and down in the shift."""
    (truth, first), (below, second) = pair(0.5, 1.2, 0.5, 0.2), pair(0.4, 1.1, 0.5, 0.2)
    ratios = []

    def interval(rng: np.random.Generator) -> Interval:
        real = rng.normal(size=(60, 2))
        one, other = (
            Estimate.of(
                [jackknife.unbiased(frechet.paired_distances_without(*draw(rng, 60, real)), 60) for _ in range(3)], 60
            )
            for draw in (first, second)
        )
        ratios.append(jackknife.ratio(one, other))
        return one.distance()

    assert 0.92 <= covered(truth, interval) <= 0.98
    held = [one is not None and one.low <= truth / below <= one.high for one in ratios]
    assert 0.92 <= np.mean(held) <= 0.98


@pytest.mark.usefixtures("few_groups")
def test_a_distance_to_a_reference_holds_what_as_many_other_images_show() -> None:
    reference = frechet.Statistics.of(np.random.default_rng(5).normal(size=(3000, 2)))

    def estimate(rng: np.random.Generator) -> Estimate:
        x = 0.4 + 1.2 * rng.normal(size=(100, 2))
        return Estimate.of([frechet.distances_without(reference, x)], 100)

    expected = np.mean([estimate(np.random.default_rng(i)).value for i in range(1000, 1500)])
    assert 0.92 <= covered(float(expected), lambda rng: estimate(rng).distance()) <= 0.98


@pytest.mark.usefixtures("few_groups")
def test_a_kernel_distance_is_unbiased_and_its_interval_holds_it() -> None:
    truth, values = 0.0, []

    def draw(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        y = rng.normal(size=(n, 2))
        return 0.5 * y + 0.75**0.5 * rng.normal(size=y.shape) + [0.5, 0], y

    rng = np.random.default_rng(4)
    truth = float(np.mean([kernel.kernel_distance(draw(rng, 3000)[0], draw(rng, 3000)[1]) for _ in range(3)]))

    def interval(rng: np.random.Generator) -> Interval:
        without = kernel.paired_kernel_distances_without(*draw(rng, 100))
        values.append(without[0])
        return Estimate.of([without], 100).distance()

    assert 0.92 <= covered(truth, interval) <= 0.98
    assert np.mean(values) == pytest.approx(truth, abs=3 * np.std(values) / DRAWS**0.5 + 0.02 * truth)


def test_a_distance_below_zero_is_cut_and_no_interval_is_negative() -> None:
    rng = np.random.default_rng(0)
    below = means(rng.normal(-0.06, 1, (1, 400)))
    assert below.value < 0
    cut = below.distance()
    assert (cut.value, cut.low) == (0, 0)
    assert cut.high == pytest.approx(below.value + 1.5 * below.spread())
    assert cut.by_seed == (below.value,)
    sure, unsure = (means(rng.normal(value, 1, (1, 400))).distance() for value in (1, 0.02))
    assert 0 < sure.low < sure.value < sure.high
    assert (unsure.low, unsure.high > 0.1) == (0, True)
    for value in (0.1, 0.3, 0.7):
        exact = Estimate(np.full((1, 51), value), 400).distance()
        assert exact.low <= exact.value <= exact.high == pytest.approx(value)
    assert (sure.low**0.5 + sure.high**0.5) / 2 == pytest.approx(sure.value**0.5)


def test_a_ratio_is_that_of_the_printed_values_and_there_is_none_of_nothing() -> None:
    rng = np.random.default_rng(0)
    first, second = means(rng.normal(3, 1, (3, 200))), means(rng.normal(2, 1, (3, 200)))
    found = jackknife.ratio(first, second)
    assert found is not None
    assert found.value == pytest.approx(first.value / second.value)
    assert found.low * found.high == pytest.approx(found.value**2)
    below = means(rng.normal(-1, 1, (3, 200)))
    assert jackknife.ratio(first, below) is jackknife.ratio(below, second) is None
