"""Cells of tables of quality: values and differences by the textbook's formulas, seeds in pairs, all rows run alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import linalg

from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import estimators
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.rows import Row
from mdrepro.evaluation.scenes import SceneImages
from mdrepro.metrics.image.scenes import Judgement
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.papers import ledger
from mdrepro.sampling import generate
from mdrepro.training.runs import loaded
from tests.support.experiments import experiment, scored, trained

N, WIDTH = 60, 3
SCENES = Shapes("test", N).scenes(range(N))
Features = NDArray[np.float64]


def normal(seed: int, shift: float = 0.0, n: int = N) -> Features:
    return np.random.default_rng(seed).normal(shift, 1.0, (n, WIDTH))


def textbook(real: Features, x: Features) -> float:
    """|m - m'|^2 + tr(C + C' - 2 (C C')^1/2)."""
    one, two = np.cov(real, rowvar=False), np.cov(x, rowvar=False)
    gap = np.square(real.mean(axis=0) - x.mean(axis=0)).sum()
    return float(gap + np.trace(one + two - 2 * np.real(linalg.sqrtm(one @ two))))


def images(features: Features, similarity: float = 0.5, wrong: int = 0) -> SceneImages:
    """Images of which the first ``wrong`` have 2 of 5 attributes wrong."""
    cosines = similarity + 0.01 * np.random.default_rng(7).normal(size=len(features))
    judged = [
        Judgement(index >= wrong, index >= wrong, (True,), (True,), (True,), ()) for index in range(len(features))
    ]
    return SceneImages("a network", torch.zeros(len(features), 1), judged, features, cosines, 3.0)


def cells(table: str, measured: Any, **fields: Any) -> dict[tuple[str, str], Row]:
    evaluation = scored(**{"scenes": SCENES, "reference": Statistics.of(normal(0)), **fields})
    found = estimators.rows(ledger.find(table), measured, evaluation)
    assert len({(cell.row, cell.column) for cell in found}) == len(found)
    return {(cell.row, cell.column): cell for cell in found}


def test_values_and_differences_are_the_textbook_s() -> None:
    real, renders = normal(0, n=400), normal(4)
    first, second = normal(1, 1.0), normal(2, 0.7)
    measured = {"t1": (images(first, 0.4, wrong=6),), "base": (images(second),), "real": (images(renders, 0.9),)}
    own = images(renders)
    found = cells("mobilediffusion-ablation-quality", measured, reference=Statistics.of(real), renders=own)
    assert found["t1", "fid_shapes"].value == pytest.approx(textbook(real, first))
    difference = found["t1", "distance_shapes_minus_base"]
    apart = [found[row, "distance_shapes"].value for row in ("t1", "base")]
    assert difference.value == pytest.approx(apart[0] - apart[1])
    assert difference.value == pytest.approx(textbook(renders, first) - textbook(renders, second), rel=0.3)
    assert "less that of row base, in pairs" in difference.protocol
    assert "95 % interval over captions, one training seed" in difference.protocol
    biased = textbook(renders, first)
    assert 0.7 * biased < found["t1", "distance_shapes"].value < biased
    assert found["t1", "clip_shapes_minus_base"].value == pytest.approx(-0.1)
    assert found["t1", "clip_shapes_minus_base"].ci_high == pytest.approx(-0.1)  # the same chance in both
    assert found["t1", "attribute_accuracy"].value == pytest.approx(1 - 2 * 6 / (5 * N))
    assert found["t1", "scene_accuracy"].value == pytest.approx(1 - 6 / N)
    assert not [key for key in found if key[0] in ("base", "real") and "minus" in key[1]]
    assert ("real", "distance_shapes") not in found
    assert found["real", "clip_shapes"].by_seed == ()
    assert found["real", "clip_shapes"].protocol.endswith("95 % interval over captions")
    assert found["t1", "clip_shapes"].by_seed == pytest.approx((found["t1", "clip_shapes"].value,))


def test_replicas_are_paired_and_the_interval_is_over_seeds_too() -> None:
    shifts = (0.8, 1.0, 1.5)
    ours = tuple(images(normal(1, shift), 0.5 - shift / 10) for shift in shifts)
    base = tuple(images(normal(2, shift), 0.6 - shift / 10) for shift in shifts)
    found = cells("mobilediffusion-ablation-quality", {"t1": ours, "base": base}, renders=images(normal(4)))
    clip = found["t1", "clip_shapes"]
    assert clip.by_seed == pytest.approx([one.similarity.mean() for one in ours])
    assert clip.value == pytest.approx(np.mean(clip.by_seed))
    spread = 4.303 * np.std(clip.by_seed, ddof=1) / 3**0.5
    assert clip.ci_high == pytest.approx(clip.value + spread, rel=0.01)
    difference = found["t1", "clip_shapes_minus_base"]
    assert difference.by_seed == pytest.approx((-0.1,) * 3)
    assert difference.ci_low == pytest.approx(-0.1)
    assert "3 training seeds and captions" in clip.protocol
    two = cells("mobilediffusion-ablation-quality", {"t1": ours, "base": base[:2]}, renders=images(normal(4)))
    assert len(two["t1", "clip_shapes_minus_base"].by_seed) == 2


def test_ratios_are_of_the_printed_distances_and_of_the_rows_that_controls_name() -> None:
    renders = normal(4)
    measured = {
        row: (images(renders + normal(5, shift), 0.8, wrong),)
        for row, shift, wrong in (("50", 0.5, 2), ("8", 0.7, 4), ("8-ddim", 1.0, 8), ("8-dpm++", 0.9, 6))
    }
    found = cells("mobilediffusion-steps", measured, renders=images(renders))
    for column, other in (("over_50", "50"), ("over_ddim", "8-ddim"), ("over_dpm", "8-dpm++")):
        ratio, both = found["8", f"distance_shapes_{column}"], (found[row, "distance_shapes"] for row in ("8", other))
        above, below = both
        assert ratio.value == pytest.approx(above.value / below.value)
        assert f"over that of row {other}" in ratio.protocol
    assert ("8-dpm++", "distance_shapes_over_50") not in found
    assert found["8", "attribute_accuracy_minus_ddim"].value == pytest.approx(2 * 4 / (5 * N))
    assert found["8", "seconds_per_image"].value == pytest.approx(3.0 / N)
    kinds = [found["8", f"attribute_accuracy_{kind}"] for kind in ("seen", "unseen")]
    related = sum(bool(scene.graph.relations) for scene in SCENES)
    assert [kind.n for kind in kinds] == [N - related, related]
    first = sum(bool(scene.graph.relations) for scene in SCENES[:4])
    assert kinds[1].value == pytest.approx(1 - 2 * first / (5 * related))


def test_there_is_no_ratio_to_a_distance_of_nothing() -> None:
    renders = np.random.default_rng(0).normal(size=(N, 2))
    near = renders + 0.001 * np.random.default_rng(1).normal(size=renders.shape)
    measured = {"50": (images(near),), "8": (images(renders + 1),)}
    found = cells("mobilediffusion-steps", measured, renders=images(renders), reference=Statistics.of(renders))
    fifty, ratio = found["50", "distance_shapes"], found["8", "distance_shapes_over_50"]
    assert fifty.value is not None
    assert 0 <= fifty.value < 1e-4
    assert fifty.value == pytest.approx(0, abs=1e-6)
    assert "there is no ratio" in ratio.reason


def test_every_network_is_run_on_the_same_noise_and_compared_with_the_named_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def made_of(pipeline: Any, texts: list[str], **options: Any) -> torch.Tensor:
        calls.append((loaded.run_of(pipeline.unet).recipe.name, tuple(texts), tuple(sorted(options.items()))))
        return render(SCENES[::-1] if calls[-1][0].partition("-seed")[0] == "shapes-rule-t1" else SCENES)

    monkeypatch.setattr(generate, "images", made_of)
    monkeypatch.setattr(
        quality, "reference", lambda scorers, skip: Statistics.of(np.random.default_rng(0).normal(size=(50, 8)))
    )
    trained(monkeypatch, tmp_path)
    made = experiment("mobilediffusion-ablation-quality", steps=5, guidance=2.0)
    evaluation = made.evaluation("shapes", N)
    measured = made.measure(evaluation, seed=3, timed=False)
    assert [name for name, _, _ in calls] == [one.recipe for row in made.setups for one in made.replicas(row)]
    assert len({call[1:] for call in calls}) == 1
    assert dict(calls[0][2]) == {"steps": 5, "guidance": 2.0, "seed": 3, "sampler": "ddim", "batch": 50}
    assert calls[0][1] == tuple(quality.prompts(SCENES))
    assert torch.equal(measured["real"][0].images, measured["base"][0].images)
    assert not torch.equal(measured["autoencoder"][0].images, measured["real"][0].images)
    assert "guidance 2, seed 3" in measured["t1"][0].description
    found = {(c.row, c.column): c for c in estimators.rows(ledger.find(made.table), measured, evaluation)}
    distances = [found[row, "fid_shapes"].value for row in ("t1", "base")]
    assert distances[0] == pytest.approx(distances[1], abs=1e-5)  # the images in another order
    assert found["t1", "clip_shapes_minus_base"].value != pytest.approx(0, abs=1e-4)
    assert ("base", "seconds_per_image") not in found


def test_each_training_seed_makes_the_same_captions_from_the_same_noise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    def made_of(pipeline: Any, texts: list[str], **options: Any) -> torch.Tensor:
        calls.append((loaded.run_of(pipeline.unet).recipe.name, options["seed"]))
        return render(SCENES)

    monkeypatch.setattr(generate, "images", made_of)
    monkeypatch.setattr(
        quality, "reference", lambda scorers, skip: Statistics.of(np.random.default_rng(0).normal(size=(50, 8)))
    )
    trained(monkeypatch, tmp_path)
    made = experiment("mobilediffusion-steps", seeds=2)
    replicas = made.images("8", made.evaluation("shapes", N), seed=4)
    assert calls == [("shapes-4", 4), ("shapes-4-seed1", 4)]
    assert [one.description.partition(",")[0] for one in replicas] == ["shapes-4", "shapes-4-seed1"]
    assert {"shapes-base", "shapes-base-seed1", "shapes-1"} <= set(made.recipes)
    assert "shapes-1-seed1" not in made.recipes, "a row that declares one seed"
    rows, records = made.credits({"8"}, {"guidance": 3.0, "seeds": 2})
    assert rows["8"]["seeds"] == 2
    assert {"shapes-4", "shapes-4-seed1"} <= set(rows["8"]["keys"])
    assert {"shapes-4", "shapes-4-seed1"} <= set(records)
