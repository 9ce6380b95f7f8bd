"""Rows that differ in their network alone: differences by the textbook's formulas, all pipelines run alike."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg

from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import paired
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.protocol import Drawn
from mdrepro.evaluation.scenes import Found, Scorers
from mdrepro.metrics.image.scenes import Judgement
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.models.scenes.clip import SceneClip
from mdrepro.models.scenes.reader import SceneReader
from mdrepro.sampling import generate

N, WIDTH = 60, 3
Features = NDArray[np.float64]


def normal(seed: int, shift: float = 0.0, n: int = N) -> Features:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, WIDTH))


def textbook(real: Features, x: Features) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2)."""
    one, two = np.cov(real, rowvar=False), np.cov(x, rowvar=False)
    gap = np.square(real.mean(axis=0) - x.mean(axis=0)).sum()
    return float(gap + np.trace(one + two - 2 * np.real(linalg.sqrtm(one @ two))))


def drawn(real: Statistics) -> Drawn:
    return Drawn(None, (), real, None, "two")  # type: ignore[arg-type]


def found(features: Features, similarity: Features) -> Found:
    right = Judgement(True, True, (True,), (True,), (True,), ())
    return Found("a way", torch.zeros(len(features), 1), [right] * len(features), features, similarity, None)


def test_a_distance_is_less_that_of_the_other_row_with_both_drawn_alike() -> None:
    real, first, second = normal(0, n=400), normal(1, 1.0), normal(2, 0.7)
    cosines = np.zeros(N)
    measured = {"t1": found(first, cosines), "base": found(second, cosines), "near": found(second + 0.02, cosines)}
    one = paired.distance("t1", "fid", measured, "base", drawn(Statistics.of(real)))
    assert one.value == pytest.approx(textbook(real, first) - textbook(real, second), rel=1e-8)
    same = paired.distance("base", "fid", measured, "base", drawn(Statistics.of(real)))
    assert (same.ci_low, same.value, same.ci_high) == (0, 0, 0)
    near = paired.distance("near", "fid", measured, "base", drawn(Statistics.of(real)))
    assert one.ci_high is not None
    assert one.ci_low is not None
    assert near.ci_high is not None
    assert near.ci_low is not None
    assert near.ci_high - near.ci_low < 0.2 * (one.ci_high - one.ci_low)
    assert "paired with row base; a way; 60 captions" in one.protocol


def test_a_difference_of_cosines_has_the_interval_of_the_mean_of_pairs() -> None:
    chance = np.random.default_rng(4)
    shared = chance.normal(0, 0.1, 2000)
    base, other = 0.8 + shared, 0.6 + shared + chance.normal(0, 0.02, 2000)
    features = normal(1, n=2000)
    measured = {"base": found(features, base), "t1": found(features, other)}
    cells = {(c.row, c.column): c for c in paired.rows(measured, drawn(Statistics.of(features)), against="base")}
    clip = cells["t1", "clip_shapes_minus_base"]
    half = 1.96 * np.std(other - base) / np.sqrt(2000)
    assert clip.value == pytest.approx((other - base).mean())
    assert clip.ci_high == pytest.approx(clip.value + half, abs=0.1 * half)
    assert clip.ci_low == pytest.approx(clip.value - half, abs=0.1 * half)


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

    monkeypatch.setattr(generate, "images", images)
    scored = Drawn(scorers, scenes, None, quality.renders(scenes, scorers), "two")  # type: ignore[arg-type]
    measured = paired.measure(
        {"base": "good", "t1": "worse"}, {"base": "b", "t1": "w"}, scored, steps=5, guidance=2.0, seed=3
    )
    assert [name for name, _, _ in asked] == ["good", "worse"]
    assert asked[0][1:] == asked[1][1:]
    assert dict(asked[0][2]) == {"steps": 5, "guidance": 2.0, "seed": 3, "sampler": "ddim", "batch": 50}
    assert asked[0][1] == tuple(quality.prompts(scenes))
    assert torch.equal(measured["real"].images, measured["base"].images)
    assert "guidance 2, seed 3" in measured["t1"].how

    real = Statistics.of(normal(5, n=200)[:, [0] * 8] + np.random.default_rng(6).normal(size=(200, 8)))
    cells = {(cell.row, cell.column): cell for cell in paired.rows(measured, drawn(real), against="base")}
    assert cells["t1", "fid_shapes_minus_base"].value == pytest.approx(0, abs=1e-6)  # the images in another order
    assert cells["t1", "clip_shapes_minus_base"].value != pytest.approx(0, abs=1e-4)
    assert not [key for key in cells if key[0] in ("base", "real") and "minus" in key[1]]
    assert ("base", "seconds_per_image") not in cells
