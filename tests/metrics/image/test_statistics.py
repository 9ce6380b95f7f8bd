"""Streaming statistics: numpy's two-pass mean and covariance, any split, stored and read again, what is refused."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import frechet
from mdrepro.metrics.image.statistics import Convention, Statistics, as_features

INCEPTION = Convention("inception, pool3", "ab" * 32, "299 px, bilinear")
FAR = 2.0**17
"""A mean so far off that raw sums of products keep few digits of the spread; it is taken away without rounding."""


def features(n=300, width=7, seed=0, shift=FAR):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, width)) @ rng.standard_normal((width, width)) + shift


def assert_equal(statistics, x, rtol=1e-10):
    assert statistics.n == len(x)
    np.testing.assert_allclose(statistics.mean, x.mean(axis=0), rtol=1e-12)
    expected = np.cov(x - FAR, rowvar=False)
    np.testing.assert_allclose(statistics.covariance, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("cuts", [[], [1], [150], [1, 2, 3, 250], list(range(10, 300, 10)), [0, 300]])
def test_any_batches_and_any_shards_give_the_two_pass_covariance(cuts):
    x = features()
    batches = np.split(x, cuts)
    streamed = Statistics()
    for batch in batches:
        streamed.add(batch)
    assert_equal(streamed, x)
    shards = [Statistics.of(batch) for batch in batches]
    assert_equal(Statistics.combined(shards), x)
    assert_equal(Statistics.combined(shards[::-1]), x)


def test_merged_shards_equal_the_unsharded_set_to_1e_10_at_any_mean():
    x = features(shift=0)
    whole = Statistics.of(x)
    merged = Statistics.combined([Statistics.of(part) for part in np.split(x, [3, 140, 141])])
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-10)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-10)


def test_tensors_of_any_type_are_summed_in_float64():
    x = torch.from_numpy(features(shift=1000)).float()
    got = Statistics().add(x[:100].requires_grad_()).add(x[100:].numpy())
    expected = Statistics.of(x.double().numpy())
    np.testing.assert_allclose(got.covariance, expected.covariance, rtol=1e-12)
    assert got.covariance.dtype == np.float64
    half = x.bfloat16()
    np.testing.assert_array_equal(as_features(half), half.double().numpy())


def test_adding_leaves_what_was_given_and_taken_alone():
    first, second = Statistics.of(features(50)), Statistics.of(features(60, seed=1))
    before, mean = second.covariance, first.mean
    whole = Statistics().merge(first).merge(second)
    whole.mean[:] = 0
    assert_equal(first, features(50))
    np.testing.assert_array_equal(second.covariance, before)
    np.testing.assert_array_equal(first.mean, mean)
    assert whole.mean.all()


def test_stored_shards_combine_as_if_they_had_never_left(tmp_path):
    x = features()
    for i, part in enumerate(np.split(x, [100, 180])):
        Statistics.of(part, INCEPTION).save(tmp_path / f"{i}.safetensors")
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{i}.safetensors" for i in range(3)]
    with safe_open(tmp_path / "0.safetensors", framework="numpy") as file:
        assert file.metadata()["weights_sha256"] == "ab" * 32
    read = Statistics.combined(Statistics.load(tmp_path / f"{i}.safetensors") for i in range(3))
    assert read.convention == INCEPTION
    assert_equal(read, x)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    place = tmp_path / "sums.safetensors"
    Statistics.of(features(20)).save(place)
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        Statistics.of(features(30)).save(place)
    assert [file.name for file in tmp_path.iterdir()] == ["sums.safetensors"]
    assert Statistics.load(place).n == 20


def test_features_of_two_conventions_do_not_mix():
    clean = Convention("inception, pool3", "ab" * 32, "299 px, bicubic with antialiasing")
    with pytest.raises(BadInput, match=r"preprocessing '299 px, bilinear' and '299 px, bicubic.*'$"):
        Statistics.of(features(), INCEPTION).merge(Statistics.of(features(), clean))


def test_what_cannot_be_summed_is_refused():
    broken = features(10)
    broken[[4, 7], 2] = np.nan, np.inf
    with pytest.raises(BadInput, match="2 of 10 images are not finite, first at position 4"):
        Statistics().add(broken)
    with pytest.raises(BadInput, match=r"shape \(3,\): expected \(images, width\)"):
        Statistics().add(np.zeros(3))
    with pytest.raises(BadInput, match="width 5 cannot join features of width 7"):
        Statistics.of(features()).add(np.zeros((2, 5)))
    with pytest.raises(BadInput, match="at least 2 images, got 1"):
        _ = Statistics.of(features(1)).covariance
    with pytest.raises(BadInput, match="at least one"):
        Statistics.combined([])


def test_files_of_another_kind_are_refused(tmp_path):
    from safetensors.numpy import save_file

    place = tmp_path / "x.safetensors"
    with pytest.raises(BadInput, match="cannot be read"):
        Statistics.load(place)
    place.write_bytes(b"not it")
    with pytest.raises(BadInput, match="no whole safetensors file"):
        Statistics.load(place)
    save_file({"mean": np.zeros(3)}, place)
    with pytest.raises(BadInput, match="as feature statistics"):
        Statistics.load(place)
    whole = {"n": np.array([3]), "mean": np.zeros(3), "scatter": np.eye(3)}
    save_file(whole, place)
    with pytest.raises(BadInput, match="of no format: expected"):
        Statistics.load(place)
    Statistics.of(features()).save(place)
    place.write_bytes(place.read_bytes()[:-8])
    with pytest.raises(BadInput, match="no whole safetensors file"):
        Statistics.load(place)
    for n, mean, scatter in (
        (3, np.zeros(2), np.full((2, 2), np.nan)),
        (3, np.zeros(2), -np.eye(2)),
        (-3, np.zeros(2), np.eye(2)),
        (3, np.zeros(2), np.eye(3)),
        (3, np.zeros(()), np.eye(2)),
    ):
        Statistics(None, n, mean, scatter).save(place)
        with pytest.raises(BadInput, match="damaged"):
            Statistics.load(place)


def test_npz_of_ours_survives_and_is_read_as_other_packages_read_it(tmp_path):
    ours = Statistics.of(features(shift=3), INCEPTION)
    ours.save(tmp_path / "a.npz")
    read = Statistics.load(tmp_path / "a.npz")
    assert (read.n, read.counted, read.convention) == (300, True, INCEPTION)
    np.testing.assert_allclose(read.covariance, ours.covariance, rtol=1e-12)
    with np.load(tmp_path / "a.npz") as file:  # as pytorch-fid and clean-fid do
        np.testing.assert_array_equal(file["mu"], ours.mean)
        np.testing.assert_array_equal(file["sigma"], ours.covariance)


@pytest.mark.parametrize(("n", "least"), [(300, 8), (5, 5)])
def test_a_foreign_npz_gives_the_foreign_distance(tmp_path, n, least):
    """pytorch-fid's and clean-fid's; the rank of a covariance bounds the number of images from below."""
    from cleanfid.fid import frechet_distance
    from pytorch_fid.fid_score import calculate_frechet_distance, compute_statistics_of_path

    x, y = features(n, shift=1), features(200, seed=1, shift=1)
    np.savez_compressed(tmp_path / "real.npz", mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False))
    real, generated = Statistics.load(tmp_path / "real.npz"), Statistics.of(y)
    assert (real.n, real.counted, real.convention) == (least, False, Convention())
    ours = frechet.distance(real, generated, few=n < 8)
    assert ours.biased == (n < 8)
    generated.save(tmp_path / "generated.npz")
    both = [compute_statistics_of_path(str(tmp_path / f"{name}.npz"), *[None] * 4) for name in ("real", "generated")]
    for theirs in (calculate_frechet_distance, frechet_distance):
        assert ours.value == pytest.approx(theirs(*both[0], *both[1]), rel=1e-4)
    with pytest.raises(BadInput, match="without their number of images"):
        Statistics().merge(real)
    x[:, 3] = 2.0  # a feature that never changes says nothing about the number of images
    np.savez(tmp_path / "still.npz", mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False))
    assert Statistics.load(tmp_path / "still.npz").n == least + (n < 8)


@pytest.mark.parametrize(
    "arrays",
    [
        {"mu": np.zeros(3)},
        {"mu": np.zeros(3), "sigma": np.eye(2)},
        {"mu": np.zeros(3), "sigma": np.eye(3) * np.nan},
        {"mu": np.zeros(2), "sigma": np.array([[1.0, 5.0], [0.0, 1.0]])},
        {"mu": np.array(["a"]), "sigma": np.eye(1)},
        {"mu": np.array([object()]), "sigma": np.eye(1)},
        {"mu": np.zeros(2), "sigma": -np.eye(2)},
        {"mu": np.zeros(2), "sigma": np.eye(2), "n": 1},
        {"mu": np.zeros(2), "sigma": np.eye(2), "n": 3, "encoder": 4},
    ],
)
def test_a_npz_of_anything_else_is_refused(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(BadInput, match=r"x\.npz"):
        Statistics.load(tmp_path / "x.npz")
    content = (tmp_path / "x.npz").read_bytes()
    for damaged in (b"", content[: len(content) // 2]):
        (tmp_path / "x.npz").write_bytes(damaged)
        with pytest.raises(BadInput, match="cannot be read"):
            Statistics.load(tmp_path / "x.npz")
