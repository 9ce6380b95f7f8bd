"""Kernel distance: the double sum by hand, three other implementations' numbers, no bias, intervals."""

import numpy as np
import pytest
import torch
from cleanfid.fid import kernel_distance as clean_fid
from torch_fidelity.metric_kid import kid_features_to_metric, mmd2
from torchmetrics.image.kid import poly_mmd

from mdrepro.core.errors import BadInput
from mdrepro.metrics import jackknife
from mdrepro.metrics.image import kernel


def sets(n1=90, n2=120, width=24, seed=7, shift=0.2):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n1, width)) * 1.2, rng.standard_normal((n2, width)) + shift


def by_hand(x, y):
    def k(a, b):
        return (a @ b / len(a) + 1) ** 3

    def within(z):
        return np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j])

    return within(x) + within(y) - 2 * np.mean([k(a, b) for a in x for b in y])


def test_the_distance_is_the_double_sum_over_pairs():
    x, y = sets(20, 31)
    assert kernel.kernel_distance(x, y) == pytest.approx(by_hand(x, y), rel=1e-10)
    assert kernel.kernel_distance(torch.from_numpy(y), torch.from_numpy(x)) == pytest.approx(by_hand(x, y), rel=1e-10)


def test_rows_may_come_in_parts(monkeypatch):
    x, y = sets()
    whole = kernel.block_kernel_distance(x, y, subsets=10, size=50)
    monkeypatch.setattr(kernel, "ROWS", 7)
    assert kernel.block_kernel_distance(x, y, subsets=10, size=50).mean == pytest.approx(whole.mean, rel=1e-12)


def test_of_sets_of_one_size_it_is_torchmetrics_number():
    x, y = sets(100, 100)
    assert kernel.kernel_distance(x, y) == pytest.approx(poly_mmd(*map(torch.from_numpy, (x, y))).item(), rel=1e-10)


@pytest.mark.parametrize(("subsets", "size"), [(10, 50), (2, 30)], ids=["every pair once", "each subset's pairs"])
def test_blocks_are_torch_fidelity_s_and_clean_fid_s(subsets, size):
    x, y = sets()
    got = kernel.block_kernel_distance(x, y, subsets=subsets, size=size)
    theirs = kid_features_to_metric(
        *map(torch.from_numpy, (x, y)), kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    assert got.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)
    assert got.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-7)
    assert (got.subsets, got.size) == (subsets, size)
    other = kernel.block_kernel_distance(x, y, subsets=subsets, size=size, seed=4)
    np.random.seed(4)
    assert other.mean == pytest.approx(clean_fid(y, x, subsets, size), rel=1e-9)
    assert other.mean != got.mean


def test_torch_fidelity_s_float32_agrees_to_1e_4():
    x, y = (z.astype(np.float32) for z in sets(400, 400, 256))
    theirs = kid_features_to_metric(*map(torch.from_numpy, (x, y)), kid_subsets=5, kid_subset_size=300, verbose=False)
    got = kernel.block_kernel_distance(x, y, subsets=5, size=300).mean
    assert got == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)


def test_two_sets_of_one_distribution_are_zero_on_average_whatever_their_size():
    found = [kernel.kernel_distance(*sets(12, 5, 4, seed)) for seed in range(500)]
    same = [kernel.kernel_distance(np.split(z, 2)[0], np.split(z, 2)[1]) for z in (_normal(s) for s in range(500))]
    error = np.std(same) / len(same) ** 0.5
    assert abs(np.mean(same)) < 3 * error
    assert np.mean(found) > 3 * error


def _normal(seed):
    return np.random.default_rng(seed).standard_normal((14, 4))


def test_repeated_images_are_no_pairs():
    x, y = sets(15, 10, 5)
    counts = np.array([[2, 0, 1, 3, 1, 0, 1, 1, 1, 0.0]])
    got = kernel.weighted(x, y, np.ones((1, 15)), counts)
    repeated = np.repeat(np.arange(10), counts[0].astype(int))
    k = (y @ y.T / 5 + 1) ** 3
    pairs = [k[i, j] for i in repeated for j in repeated if i != j]
    cross = (x @ y[repeated].T / 5 + 1) ** 3
    kx = (x @ x.T / 5 + 1) ** 3
    expected = (kx.sum() - np.trace(kx)) / 210 + np.mean(pairs) - 2 * cross.mean()
    assert got == pytest.approx([expected], rel=1e-10)


def test_too_few_images_and_other_widths_are_refused():
    x, y = sets()
    with pytest.raises(BadInput, match="at least 100 images in each set are needed, got 90 and 120"):
        kernel.block_kernel_distance(x, y, size=100)
    with pytest.raises(BadInput, match="at least 2 images"):
        kernel.kernel_distance(x[:1], y)
    with pytest.raises(BadInput, match="0 subsets of 5 images: expected"):
        kernel.block_kernel_distance(x, y, subsets=0, size=5)
    with pytest.raises(BadInput, match="width 24 and 23"):
        kernel.kernel_distance(x, y[:, 1:])
    with pytest.raises(BadInput, match="not finite"):
        kernel.kernel_distance(x, np.full_like(y, np.nan))


def test_images_of_the_same_captions_are_the_u_statistic_with_and_without_each_group():
    x, y = sets(75, 75)
    got = kernel.paired_kernel_distances_without(x, y)
    of = jackknife.groups(75)
    kept = [np.ones(75, bool), *(of != group for group in range(50))]
    theirs = [
        mmd2(*(((a @ b.T) / 24 + 1) ** 3 for a, b in ((x[k], x[k]), (x[k], y[k]), (y[k], y[k]))), mmd_est="u-statistic")
        for k in kept
    ]
    assert got == pytest.approx(theirs, rel=1e-9)
    assert kernel.paired_kernel_distances_without(x, x) == pytest.approx(0, abs=1e-12)
    with pytest.raises(BadInput, match="90 and 75 images of the same captions"):
        kernel.paired_kernel_distances_without(sets()[0], y)


def test_pairs_that_belong_together_do_not_bias_the_paired_distance():
    rng = np.random.default_rng(0)
    pairs = [(y, 0.9 * y + 0.19**0.5 * rng.standard_normal(y.shape)) for y in rng.standard_normal((400, 30, 4))]
    paired = [kernel.paired_kernel_distances_without(x, y)[0] for y, x in pairs]
    alone = [kernel.kernel_distance(x, y) for y, x in pairs]
    assert abs(np.mean(paired)) < 3 * np.std(paired) / 20
    assert np.mean(alone) < -3 * np.std(alone) / 20
