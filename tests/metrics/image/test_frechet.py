"""Fréchet distance: closed forms, three other implementations, sets without full rank, groups left out."""

import numpy as np
import pytest
import torch
from cleanfid.fid import frechet_distance as clean_fid
from scipy import linalg
from sklearn.linear_model import LinearRegression
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid as torchmetrics_fid

from mdrepro.core.errors import BadInput
from mdrepro.metrics import jackknife
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.statistics import Convention, Statistics


def mixing(width, seed):
    return np.random.default_rng(seed).standard_normal((width, width)) / width**0.5


def sets(n1=400, n2=500, width=96, shift=0.3):
    """Two correlated sets of features, like an encoder's: a decaying spectrum and means that differ."""
    rng = np.random.default_rng(7)
    spectrum = np.geomspace(3, 0.01, width)
    first = rng.standard_normal((n1, width)) * spectrum @ mixing(width, 1)
    second = rng.standard_normal((n2, width)) * spectrum @ mixing(width, 2) + shift
    return first, second


def of(x, y, **options):
    return frechet.distance(Statistics.of(x), Statistics.of(y), **options).value


def test_the_closed_form_of_gaussians_that_commute():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    one, two = rng.uniform(0, 4, 40), rng.uniform(0, 4, 40)
    mean1, mean2 = rng.standard_normal((2, 40))
    got = frechet.frechet_distance(mean1, basis * one @ basis.T, mean2, basis * two @ basis.T)
    expected = np.square(mean1 - mean2).sum() + np.square(np.sqrt(one) - np.sqrt(two)).sum()
    assert got == pytest.approx(expected, rel=1e-10)


def test_torch_fidelity_clean_fid_and_torchmetrics_give_the_same_number():
    x, y = sets()
    got = of(x, y)
    theirs = [fid_features_to_statistics(torch.from_numpy(z)) for z in (x, y)]
    moments = [(z["mu"], z["sigma"]) for z in theirs]
    assert got == pytest.approx(fid_statistics_to_metric(*theirs, False)["frechet_inception_distance"], rel=1e-8)
    assert got == pytest.approx(clean_fid(*moments[0], *moments[1]), rel=1e-8)
    tensors = [torch.from_numpy(z) for pair in moments for z in pair]
    assert got == pytest.approx(torchmetrics_fid(*tensors).item(), rel=1e-8)
    assert got > 1
    assert of(y, x) == pytest.approx(got, rel=1e-10)


def test_the_trace_of_the_root_is_sqrtm_s():
    one, two = (np.cov(z, rowvar=False) for z in sets())
    assert frechet.trace_of_root(one, two) == pytest.approx(np.trace(linalg.sqrtm(one @ two)).real, rel=1e-10)


@pytest.mark.parametrize(("n1", "n2"), [(30, 400), (400, 30), (30, 50), (12, 400), (400, 12)])
def test_covariances_without_full_rank(n1, n2):
    """With X and Y centred, tr (X^T X Y^T Y)^(1/2) is the sum of the singular values of X Y^T."""
    x, y = sets(n1, n2)
    a, b = ((z - z.mean(axis=0)) / (len(z) - 1) ** 0.5 for z in (x, y))
    trace = linalg.svdvals(a @ b.T).sum()
    expected = np.square(x.mean(axis=0) - y.mean(axis=0)).sum() + np.square(a).sum() + np.square(b).sum() - 2 * trace
    assert of(x, y, few=True) == pytest.approx(expected, rel=1e-10)


def test_features_that_never_vary():
    x, y = sets(width=20)
    x[:, [3, 8]] = y[:, [3, 8]] = 1.5  # dead in both
    y[:, 11] = -2  # dead in one
    kept = [i for i in range(20) if i not in (3, 8)]
    assert of(x, y) == pytest.approx(of(x[:, kept], y[:, kept]), rel=1e-10)
    assert of(x, x) == pytest.approx(0, abs=1e-9)
    still = np.full((30, 20), 2.0)
    assert of(x, still) == pytest.approx(np.square(x.mean(axis=0) - 2).sum() + x.var(axis=0, ddof=1).sum(), rel=1e-10)
    assert of(still, still + 1) == pytest.approx(20)


def test_too_few_images_are_an_error_or_a_biased_number():
    x, y = sets(n1=97, n2=96)
    with pytest.raises(BadInput, match="of 96 features needs at least 97 images in each set, got 97 and 96"):
        of(x, y)
    got = frechet.distance(Statistics.of(x), Statistics.of(y), few=True)
    assert (got.n_reference, got.n, got.biased) == (97, 96, True)
    assert not frechet.distance(Statistics.of(x), Statistics.of(x), few=True).biased
    with pytest.raises(BadInput, match="got 96 and 97"):
        of(y, x)


def test_only_features_of_one_convention_are_compared():
    x, y = sets(width=8)
    with pytest.raises(BadInput, match="encoder 'a' and 'b'"):
        frechet.distance(Statistics.of(x, Convention("a")), Statistics.of(y, Convention("b")))
    with pytest.raises(BadInput, match="width 8 and 7"):
        of(x, y[:, 1:])


@pytest.mark.parametrize(("n", "few"), [(300, False), (40, True)])
def test_resamples_are_the_distances_of_repeated_images(n, few):
    x, y = sets(n2=n)
    reference = Statistics.of(x)
    counts = np.random.default_rng(3).multinomial(n, np.full(n, 1 / n), size=4)
    got = frechet.distances_of_resamples(reference, y, counts)
    for value, row in zip(got, counts.astype(int), strict=True):
        assert value == pytest.approx(of(x, np.repeat(y, row, axis=0), few=few), rel=1e-9)


def test_infinity_is_the_end_of_the_line_through_independent_distances():
    x, y = sets(n1=1000, n2=1200, width=24)
    reference = Statistics.of(x)
    got = frechet.infinity(reference, y, seed=5)
    assert got.sizes == tuple(np.linspace(120, 1200, 15).astype("int32").tolist())
    chance = np.random.default_rng(5)
    parts = [y[chance.permutation(len(y))[:size]] for size in got.sizes]
    values = [clean_fid(x.mean(0), np.cov(x.T), part.mean(0), np.cov(part.T)) for part in parts]
    np.testing.assert_allclose(got.distances, values, rtol=1e-8)
    line = LinearRegression().fit(1 / np.array(got.sizes)[:, None], values)
    assert got.value == pytest.approx(line.predict([[0]])[0], rel=1e-6)
    assert got.slope == pytest.approx(line.coef_[0], rel=1e-5)  # distances to 1e-8, over 1 / 120 - 1 / 1200
    assert got.slope > 0


def test_infinity_is_nearer_to_the_truth_than_the_distance_of_all_images():
    rng, width = np.random.default_rng(0), 32
    change = np.eye(width) + 0.3 * mixing(width, 4)
    truth = frechet.frechet_distance(np.zeros(width), np.eye(width), np.full(width, 0.1), change.T @ change)
    reference = Statistics(None, 10**6, np.zeros(width), np.eye(width) * (10**6 - 1))
    plain, limit = [], []
    for seed in range(5):
        x = rng.standard_normal((1000, width)) @ change + 0.1
        plain.append(frechet.distance(reference, Statistics.of(x)).value - truth)
        limit.append(frechet.infinity(reference, x, seed=seed).value - truth)
    assert abs(np.mean(limit)) < 0.3 * np.mean(plain)


def test_infinity_needs_a_range_of_sizes():
    x, y = sets(n2=100, width=64)
    with pytest.raises(BadInput, match="subsets of 65 to 100 images of 64 features: needed are"):
        frechet.infinity(Statistics.of(x), y)
    with pytest.raises(BadInput, match="with 1 subsets"):
        frechet.infinity(Statistics.of(x), x, points=1)


def test_distances_without_a_group_are_those_of_the_images_left():
    x, y = sets(330, 330, width=12)
    reference, group_n = Statistics.of(sets(width=12)[1]), jackknife.groups(330)
    kept = [np.ones(330, bool), *(group_n != group for group in range(50))]
    assert frechet.distances_without(reference, x) == pytest.approx(
        [frechet.distance(reference, Statistics.of(x[k])).value for k in kept]
    )
    assert frechet.paired_distances_without(x, y) == pytest.approx([of(x[k], y[k]) for k in kept])
    for first, second in ((x[:300], y), (x[:12], y[:12])):
        with pytest.raises(BadInput, match=r"more than 12 of 12 features without any one of \d+ groups"):
            frechet.paired_distances_without(first, second)


def test_the_spread_of_a_distance_is_that_of_its_gradient(monkeypatch):
    """The delta method: dD/dm = 2 (m - m'), dD/dS = I - T, where T is the map of optimal transport (Gelbrich 1990)."""
    monkeypatch.setattr(jackknife, "GROUPS", 600)
    x, y = sets(600, 600, width=5)
    mean, cov = [z.mean(axis=0) for z in (x, y)], [np.cov(z, rowvar=False) for z in (x, y)]
    root = linalg.sqrtm(cov[0])
    there = np.linalg.inv(root) @ linalg.sqrtm(root @ cov[1] @ root) @ np.linalg.inv(root)
    a, b = x - mean[0], y - mean[1]
    change = 2 * (a - b) @ (mean[0] - mean[1])
    change += np.einsum("ni,ij,nj->n", a, np.eye(5) - there, a)
    change += np.einsum("ni,ij,nj->n", b, np.eye(5) - np.linalg.inv(there), b)
    wanted = jackknife.quantile(599) * change.std() / 600**0.5
    found = jackknife.Estimate.of([frechet.paired_distances_without(x, y)], 600).spread()
    assert found == pytest.approx(wanted, rel=0.01)
