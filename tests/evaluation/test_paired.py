"""Rows that differ in their network alone: differences by the textbook's formulas, all pipelines run alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg

from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import paired
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.scenes import SceneImages
from mdrepro.metrics.image.scenes import Judgement
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.sampling import generate
from mdrepro.training.runs import loaded
from tests.support.experiments import experiment, scored, trained

N, WIDTH = 60, 3
Features = NDArray[np.float64]


def normal(seed: int, shift: float = 0.0, n: int = N) -> Features:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, WIDTH))


def textbook(real: Features, x: Features) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2)."""
    one, two = np.cov(real, rowvar=False), np.cov(x, rowvar=False)
    gap = np.square(real.mean(axis=0) - x.mean(axis=0)).sum()
    return float(gap + np.trace(one + two - 2 * np.real(linalg.sqrtm(one @ two))))


def images(features: Features, similarity: Features) -> SceneImages:
    right = Judgement(True, True, (True,), (True,), (True,), ())
    return SceneImages("a network", torch.zeros(len(features), 1), [right] * len(features), features, similarity, None)


def test_a_distance_is_less_that_of_the_other_row_with_both_drawn_alike() -> None:
    real, first, second = normal(0, n=400), normal(1, 1.0), normal(2, 0.7)
    cosines = np.zeros(N)
    measured = {"t1": images(first, cosines), "base": images(second, cosines), "near": images(second + 0.02, cosines)}
    one = paired.distance("t1", "fid", measured, "base", scored(reference=Statistics.of(real)))
    assert one.value == pytest.approx(textbook(real, first) - textbook(real, second), rel=1e-8)
    same = paired.distance("base", "fid", measured, "base", scored(reference=Statistics.of(real)))
    assert (same.ci_low, same.value, same.ci_high) == (0, 0, 0)
    near = paired.distance("near", "fid", measured, "base", scored(reference=Statistics.of(real)))
    assert one.ci_high is not None
    assert one.ci_low is not None
    assert near.ci_high is not None
    assert near.ci_low is not None
    assert near.ci_high - near.ci_low < 0.2 * (one.ci_high - one.ci_low)
    assert "paired with row base; a network; 60 captions" in one.protocol


def test_a_difference_of_cosines_has_the_interval_of_the_mean_of_pairs() -> None:
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 0.1, 2000)
    base, other = 0.8 + shared, 0.6 + shared + rng.normal(0, 0.02, 2000)
    features = normal(1, n=2000)
    measured = {"base": images(features, base), "t1": images(features, other)}
    cells = {
        (c.row, c.column): c for c in paired.rows(measured, scored(reference=Statistics.of(features)), against="base")
    }
    clip = cells["t1", "clip_shapes_minus_base"]
    half = 1.96 * np.std(other - base) / np.sqrt(2000)
    assert clip.value == pytest.approx((other - base).mean())
    assert clip.ci_high == pytest.approx(clip.value + half, abs=0.1 * half)
    assert clip.ci_low == pytest.approx(clip.value - half, abs=0.1 * half)


def test_every_network_is_run_on_the_same_noise_and_compared_with_the_named_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scenes, calls = Shapes("test", N).scenes(range(N)), []

    def images(pipeline: Any, texts: list[str], **options: Any) -> torch.Tensor:
        calls.append((loaded.run_of(pipeline.unet).recipe.name, tuple(texts), tuple(sorted(options.items()))))
        return render(scenes[::-1] if calls[-1][0] == "shapes-rule-t1" else scenes)

    monkeypatch.setattr(generate, "images", images)
    trained(monkeypatch, tmp_path)
    made = experiment("mobilediffusion-ablation-quality", steps=5, guidance=2.0)
    evaluation = made.evaluation("shapes", N)
    measured = made.measure(evaluation, seed=3, timed=False)
    assert [name for name, _, _ in calls] == [setup.recipe for setup in made.setups.values()]
    assert len({call[1:] for call in calls}) == 1
    assert dict(calls[0][2]) == {"steps": 5, "guidance": 2.0, "seed": 3, "sampler": "ddim", "batch": 50}
    assert calls[0][1] == tuple(quality.prompts(scenes))
    assert torch.equal(measured["real"].images, measured["base"].images)
    assert "guidance 2, seed 3" in measured["t1"].description

    real = Statistics.of(normal(5, n=200)[:, [0] * 8] + np.random.default_rng(6).normal(size=(200, 8)))
    rows = paired.rows(measured, scored(reference=real, renders=measured["real"]), against="base")
    cells = {(cell.row, cell.column): cell for cell in rows}
    assert cells["t1", "fid_shapes_minus_base"].value == pytest.approx(0, abs=1e-6)  # the images in another order
    assert cells["t1", "clip_shapes_minus_base"].value != pytest.approx(0, abs=1e-4)
    assert not [key for key in cells if key[0] in ("base", "real") and "minus" in key[1]]
    assert ("base", "seconds_per_image") not in cells
