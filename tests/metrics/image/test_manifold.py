"""Precision and recall: a case by hand, torch-fidelity's numbers, and which way each reacts."""

import numpy as np
import pytest
import torch
from torch_fidelity.metric_prc import calculate_precision_recall_full

from mdrepro.core.errors import BadInput
from mdrepro.metrics.image import manifold
from mdrepro.metrics.image.manifold import precision_recall


def normal(n, width=6, seed=0, scale=1.0):
    return np.random.default_rng(seed).standard_normal((n, width)) * scale


def test_a_line_by_hand():
    real = np.array([[0.0], [1], [3], [7]])  # balls of k = 1 reach 1, 1, 2 and 4: [-1, 1], [0, 2], [1, 5], [3, 11]
    generated = np.array(
        [[-1.5], [2.5], [2.6], [20]]
    )  # 4, 0.1, 0.1, 17.4: [-5.5, 2.5], [2.4, 2.6], [2.5, 2.7], [2.6, 37]
    got = precision_recall(real, generated, k=1)
    assert (got.precision, got.recall) == (0.5, 1.0)
    assert (got.k, got.n_real, got.n) == (1, 4, 4)


@pytest.mark.parametrize(("k", "width"), [(3, 6), (5, 64)])
def test_torch_fidelity_gives_the_same_shares(k, width):
    real, generated = normal(300, width), normal(250, width, 1, 0.9) + 0.2
    theirs = calculate_precision_recall_full(*map(torch.from_numpy, (generated, real)), neighborhood=k)
    got = precision_recall(real, generated, k=k)
    assert (got.precision, got.recall) == pytest.approx(theirs, abs=1e-6)
    assert 0 < got.recall < got.precision
    assert got.recall < 0.99


def test_rows_may_come_in_parts(monkeypatch):
    real, generated = normal(100), normal(90, seed=1)
    whole = precision_recall(real, generated)
    monkeypatch.setattr(manifold, "ROWS", 13)
    assert precision_recall(real, generated) == whole


def test_few_modes_cost_recall_and_strange_images_cost_precision():
    real = normal(400)
    narrow = precision_recall(real, normal(400, seed=1, scale=0.5))
    wide = precision_recall(real, normal(400, seed=1, scale=1.8))
    assert narrow.precision > 0.95 > 0.7 > narrow.recall
    assert wide.recall > 0.95 > 0.7 > wide.precision


def test_equal_images_are_on_each_other_s_manifold_far_from_zero_too():
    one = normal(1, 2048, 3) * 100
    collapsed, real = np.repeat(one, 30, axis=0), np.concatenate([one, normal(20, 2048)])
    got = precision_recall(real, collapsed)
    assert (got.precision, got.recall) == (1, pytest.approx(1 / 21))


def test_k_must_leave_a_neighbour():
    with pytest.raises(BadInput, match=r"k is 3: expected 1 to one less than the images of each set \(9 and 3\)"):
        precision_recall(normal(9), normal(3))
    with pytest.raises(BadInput, match="width 6 and 5"):
        precision_recall(normal(9), normal(9, 5))
