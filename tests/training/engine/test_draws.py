"""Draws: the numbers of Philox at the stated address, the same however a batch is split."""

import hashlib

import numpy as np
import pytest
import scipy.stats
import torch

from mdrepro.training.engine.draws import Draws

WORD = 2**64


def philox(counter, key):
    """Philox4x64 with ten rounds, as published (Salmon et al. 2011, section 3.3)."""
    a, b, c, d = counter
    k, m = key
    for _ in range(10):
        left, right = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = right // WORD ^ b ^ k, right % WORD, left // WORD ^ d ^ m, left % WORD
        k, m = (k + 0x9E3779B97F4A7C15) % WORD, (m + 0xBB67AE8584CAA73B) % WORD
    return a, b, c, d


def calls(draws):
    return [draws.normal(3, 2), draws.normal(17), draws.normal(), draws.uniform(-1, 5), draws.integers(2, 1000)]


def test_published_numbers_of_philox():
    """Two of the known answers that come with Random123."""
    zeros = (0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B)
    ones = (0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0)
    assert philox((0,) * 4, (0,) * 2) == zeros
    assert philox((WORD - 1,) * 4, (WORD - 1,) * 2) == ones


def test_scalars_stand_at_their_address():
    draws = Draws(7, 3, first=5, count=4, stream="unet")
    key = np.frombuffer(hashlib.blake2b(b"7 unet", digest_size=16).digest(), np.uint64).tolist()
    seed, uniform = draws.seed(), draws.uniform()
    assert seed == philox((1, 1, 0, 3), key)[0] >> 1
    expected = [(philox((5 + i + 1, 2, 0, 3), key)[0] >> 40) / 2**24 for i in range(4)]
    assert uniform.tolist() == expected


@pytest.mark.parametrize("cut", [1, 5, 8])
def test_splitting_changes_nothing(cut):
    whole = calls(Draws(3, 11, 0, 13, stream="s"))
    parts = zip(calls(Draws(3, 11, 0, cut, stream="s")), calls(Draws(3, 11, cut, 13 - cut, stream="s")), strict=True)
    for all_at_once, pieces in zip(whole, parts, strict=True):
        assert torch.equal(all_at_once, torch.cat(pieces))


def test_seed_is_the_same_in_all_micro_batches_and_another_in_each_step():
    seeds = [Draws(0, step, first, 4).seed() for step in range(50) for first in (0, 4)]
    assert seeds[::2] == seeds[1::2]
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_every_part_of_the_address_matters():
    one = Draws(0, 0, 0, 4)
    others = [Draws(1, 0, 0, 4), Draws(0, 1, 0, 4), Draws(0, 0, 4, 4), Draws(0, 0, 0, 4, stream="a")]
    for name, arguments in (("normal", (3,)), ("uniform", ()), ("integers", (0, 2**40))):
        found = torch.cat([getattr(draws, name)(*arguments).flatten() for draws in [one, *others, one]])
        assert len(found.unique()) == len(found), name


def test_moments_and_distribution_of_normal():
    x = torch.cat([Draws(0, step, 0, 64).normal(50) for step in range(40)])
    assert x.shape == (2560, 50)
    assert x.dtype == torch.float32
    flat = x.double().flatten()
    error = len(flat) ** -0.5
    assert abs(flat.mean()) < 4 * error
    assert abs(flat.var() - 1) < 4 * 2**0.5 * error
    assert abs((flat**4).mean() - 3) < 4 * 96**0.5 * error
    assert scipy.stats.kstest(flat.numpy(), "norm").pvalue > 1e-3
    for a, b in ((x[:, :-1], x[:, 1:]), (x[:-1], x[1:]), (x[:-64], x[64:])):  # within, between samples, between steps
        assert abs((a * b).double().mean()) < 4 * a.numel() ** -0.5


def test_distribution_of_scalars():
    draws = [Draws(0, step, 0, 100) for step in range(200)]
    uniform = torch.cat([d.uniform(2, 14) for d in draws]).double().numpy()
    assert scipy.stats.kstest(uniform, scipy.stats.uniform(2, 12).cdf).pvalue > 1e-3
    counts = torch.cat([d.integers(-3, 7) for d in draws]).add(3).bincount(minlength=10)
    assert len(counts) == 10
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_ends_of_the_ranges():
    high = torch.cat([Draws(0, step, 0, 4096).uniform(2**20, 2**20 + 1) for step in range(4)])
    assert high.min() == 2**20
    assert high.max() < 2**20 + 1  # halves of the range round to its end
    one = Draws(0, 0, 0, 100).integers(4, 5)
    assert one.unique().tolist() == [4]
    assert one.dtype == torch.int64
