"""Rows that differ in their network alone: ratios against textbook formulas, all pipelines run alike."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import linalg

from mdrepro.data.shapes import Shapes, render
from mdrepro.metrics import frechet
from mdrepro.metrics.scene_clip import SceneClip
from mdrepro.metrics.scenes import SceneReader
from mdrepro.metrics.statistics import Statistics
from mdrepro.reproduce.tables import alike, quality
from mdrepro.reproduce.tables.quality import Scorers

N, WIDTH = 60, 3
Features = alike.Features


def normal(seed: int, shift: float = 0.0, n: int = N) -> Features:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, WIDTH))


def textbook(real: Features, x: Features) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2)."""
    one, two = np.cov(real, rowvar=False), np.cov(x, rowvar=False)
    gap = np.square(real.mean(axis=0) - x.mean(axis=0)).sum()
    return float(gap + np.trace(one + two - 2 * np.real(linalg.sqrtm(one @ two))))


def test_a_ratio_of_distances_is_that_of_the_formula_with_both_drawn_alike() -> None:
    real, first, second = normal(0, n=400), normal(1, 1.0), normal(2, 0.7)
    found = alike.distance_ratio(Statistics.of(real), first, second)
    assert found.value == pytest.approx(textbook(real, first) / textbook(real, second), rel=1e-8)
    drawn = []
    for x in (first, second):
        sets = [np.repeat(x, counts.astype(int), axis=0) for counts in frechet.draws(N, quality.RESAMPLES, 0)]
        distances = np.array([textbook(real, some) for some in sets])
        drawn.append(distances - distances.mean() + textbook(real, x))
    low, high = np.quantile(drawn[0] / drawn[1], [0.025, 0.975])
    assert (found.low, found.high, found.n) == (pytest.approx(low, rel=1e-6), pytest.approx(high, rel=1e-6), N)


def test_what_both_share_cancels() -> None:
    real, first = Statistics.of(normal(0, n=400)), normal(1, 1.0)
    same = alike.distance_ratio(real, first, first)
    assert (same.low, same.value, same.high) == (1, 1, 1)
    near, far = first + 0.02, normal(3, 1.02)
    paired, loose = alike.distance_ratio(real, near, first), alike.distance_ratio(real, far, first)
    assert paired.high - paired.low < 0.2 * (loose.high - loose.low)


def test_a_ratio_of_means_has_the_interval_of_the_delta_method() -> None:
    chance = np.random.default_rng(4)
    shared = chance.normal(0, 0.1, 4000)
    first, second = 0.6 + shared + chance.normal(0, 0.05, 4000), 0.8 + shared
    found = alike.mean_ratio(first, second)
    ratio = first.mean() / second.mean()
    spread = np.std(first - ratio * second) / second.mean() / np.sqrt(4000)
    assert found.value == pytest.approx(ratio)
    assert found.high - ratio == pytest.approx(1.96 * spread, rel=0.1)
    assert ratio - found.low == pytest.approx(1.96 * spread, rel=0.1)


@pytest.fixture(scope="module")
def scorers() -> Scorers:
    torch.manual_seed(0)
    return Scorers(SceneReader(width=8, depth=1).eval(), SceneClip(features=8, image_width=8).eval(), "two", "0")


def test_every_network_is_run_alike_and_compared_with_the_named_one(
    scorers: Scorers, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes, asked = Shapes("test", N).scenes(range(N)), []

    def images(pipeline: str, texts: list[str], **how: Any) -> torch.Tensor:
        asked.append((pipeline, tuple(texts), tuple(sorted(how.items()))))
        return render(scenes[::-1] if pipeline == "worse" else scenes)

    monkeypatch.setattr(alike.generate, "images", images)
    measured = alike.measure(
        {"base": "good", "t1": "worse"}, {"base": "b", "t1": "w"}, scorers, scenes, steps=5, guidance=2.0, seed=3
    )
    assert [name for name, _, _ in asked] == ["good", "worse"]
    assert asked[0][1:] == asked[1][1:]
    assert dict(asked[0][2]) == {"steps": 5, "guidance": 2.0, "seed": 3, "sampler": "ddim", "batch": 50}
    assert asked[0][1] == tuple(quality.prompts(scenes))
    assert torch.equal(measured["real"].images, measured["base"].images)
    assert "guidance 2, seed 3" in measured["t1"].how

    real = Statistics.of(normal(5, n=200)[:, [0] * 8] + np.random.default_rng(6).normal(size=(200, 8)))
    cells = {(cell.row, cell.column): cell for cell in alike.rows(measured, real, "two", against="base")}
    ratio = cells["t1", "clip_shapes_over_base"]
    assert ratio.value == pytest.approx(measured["t1"].similarity.mean() / measured["base"].similarity.mean())
    assert ratio.value != pytest.approx(1, abs=1e-3)
    assert cells["t1", "fid_shapes_over_base"].value == pytest.approx(1)  # the same images in another order
    assert not [key for key in cells if key[0] in ("base", "real") and "over" in key[1]]
    assert ("base", "seconds_per_image") not in cells
