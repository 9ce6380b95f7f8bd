"""Table of 50, 8 and 1 steps: shares and intervals against closed forms, rows against the table's declaration."""

import numpy as np
import pytest
import torch

from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import intervals, networks
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.scenes import SceneImages, Scorers
from mdrepro.metrics.image.scenes import Judgement, judge
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.models.scenes.reader import Reading, SceneReader
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import steps
from mdrepro.reproduce.workflow.record import complete
from mdrepro.training.runs import pipelines, store
from tests.support.experiments import experiment, scored

NAME = "mobilediffusion-steps"
N = 80


def right(value: bool, things: int = 1) -> Judgement:
    return Judgement(value, value, (value,) * things, (value,) * things, (value,) * things, ())


def test_an_attribute_counts_as_much_in_a_full_scene_as_in_an_empty_one() -> None:
    values = [np.ones(5), np.zeros(11), np.ones(11)]
    assert intervals.share(values).value == pytest.approx(16 / 27)  # not 2 / 3, the mean of the images


def test_the_interval_is_that_of_a_share() -> None:
    rng = np.random.default_rng(0)
    values = [rng.random(1) < 0.8 for _ in range(2000)]
    found = intervals.share([v.astype(float) for v in values])
    half = 1.96 * np.sqrt(found.value * (1 - found.value) / 2000)
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_the_same_images_differ_by_nothing_and_pairs_are_kept() -> None:
    rng = np.random.default_rng(1)
    first = [(rng.random(7) < 0.5).astype(float) for _ in range(300)]
    second = [np.concatenate([v[:-1], [1.0]]) for v in first]  # never worse, sometimes better
    nothing, better = intervals.share_difference(first, first), intervals.share_difference(second, first)
    assert (nothing.low, nothing.value, nothing.high) == (0, 0, 0)
    assert 0 < better.low < better.value
    alone = intervals.share(second)
    assert better.high - better.low < alone.high - alone.low


@pytest.fixture(scope="module")
def measured() -> dict[str, SceneImages]:
    """All rows, made of renders, more of them of the wrong scene the farther from 50 steps."""
    torch.manual_seed(0)
    reader = SceneReader(width=16, depth=2).eval()
    scenes = Shapes("test", N).scenes(range(N))
    pixels, done = render(scenes), {}
    for wrong, row in enumerate([*ledger.find(NAME).networks("quick"), "real"]):
        judgements = [
            judge(s.graph, Reading(s.graph.background, ())) if i < wrong else right(True) for i, s in enumerate(scenes)
        ]
        seen, near = quality.features(reader, pixels) + wrong, np.full(N, 0.9 - 0.1 * wrong)
        done[row] = SceneImages(row, pixels, judgements, seen, near, None if row == "real" else 8.0)
    return done


def test_rows_are_the_declared_ones(measured: dict[str, SceneImages]) -> None:
    real = Statistics.of(measured["50"].features)
    of_eight = {row: measured[row].features[None] for row in ("8", "8-ddim", "8-dpm++")}
    cells = {(row.row, row.column): row for row in steps.rows(measured, scored(reference=real), of_eight)}
    complete(ledger.find(NAME), list(cells.values()))
    assert cells["8", "clip_shapes"].value == pytest.approx(0.8)
    assert cells["50", "fid_shapes"].value == pytest.approx(0, abs=1e-6)
    assert cells["8", "fid_shapes"].value == pytest.approx(16, rel=1e-6)  # 16 features moved by 1
    assert cells["8", "fid_shapes_minus_8_ddim"].value == pytest.approx(16 * (1 - 9), rel=1e-6)
    assert cells["8", "fid_shapes_minus_8_dpm"].value == pytest.approx(16 * (1 - 16), rel=1e-6)
    assert cells["1", "scene_accuracy"].value == pytest.approx(1 - 2 / N)
    assert cells["8", "attribute_accuracy_minus_50"].value < 0
    assert cells["50", "seconds_per_image"].value == pytest.approx(8.0 / N)
    assert ("real", "seconds_per_image") not in cells


def test_the_grid_frames_what_is_wrong(measured: dict[str, SceneImages]) -> None:
    scenes = Shapes("test", N).scenes(range(N))
    figure = scored(scenes=scenes).grid(measured, 4)
    framed = [[axis.spines["left"].get_visible() for axis in figure.axes[i * 4 : i * 4 + 4]] for i in range(4)]
    assert framed == [[False] * 4, [True, False, False, False], [True, True, False, False], [True, True, True, False]]
    of_eight = {row: measured[row].features[None] for row in ("8", "8-ddim", "8-dpm++")}
    cells = steps.rows(measured, scored(reference=Statistics.of(measured["50"].features)), of_eight)
    assert len(steps.quality_figure(cells).axes) == 2


def test_more_noises_make_the_difference_of_two_distances_surer() -> None:
    rng = np.random.default_rng(0)
    real = Statistics.of(rng.normal(size=(4000, 4)))
    first, second = rng.normal(size=(8, 100, 4)), rng.normal(0.3, 1.2, size=(8, 100, 4))
    one, many = (intervals.distance_difference(real, first[:k], second[:k]) for k in (1, 8))
    truth = -4 * (0.3**2 + 0.2**2)  # squared distance of N(0, 1) less that of N(0.3, 1.2^2), in each direction
    assert many.low < truth < many.high < 0
    assert many.high - many.low < 0.6 * (one.high - one.low)
    assert many.n == 800


def test_images_of_one_caption_are_drawn_together() -> None:
    rng = np.random.default_rng(1)
    real = Statistics.of(rng.normal(size=(4000, 4)))
    first, second = rng.normal(size=(1, 200, 4)), rng.normal(0.3, 1.0, size=(1, 200, 4))
    once = intervals.distance_difference(real, first, second)
    again = intervals.distance_difference(real, np.repeat(first, 4, 0), np.repeat(second, 4, 0))
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.05)  # no news from the same images


def test_compute_is_evaluations_times_branches(monkeypatch: pytest.MonkeyPatch) -> None:
    run = store.find("shapes-base")
    assert run is not None
    pipeline = pipelines.load("shapes-base")
    monkeypatch.setattr(networks, "pipeline", lambda _: pipeline)
    monkeypatch.setattr(Experiment, "runs", {})
    cells = {row.row: row.value for row in steps.compute(experiment(NAME))}
    assert cells["50"] == pytest.approx(100 * cells["1"])
    assert cells["8"] == cells["8-ddim"] == cells["8-dpm++"] == pytest.approx(8 * cells["1"])
    linear = sum(p.numel() for p in run.load("unet").parameters() if p.ndim == 2) / 1e9
    assert cells["1"] is not None
    assert cells["1"] > linear  # each matrix is used once at least
    complete(ledger.find(NAME), steps.compute(experiment(NAME)))


def test_scorers_find_in_renders_what_the_captions_say() -> None:
    reader, clip = (store.load_or_train(name) for name in ledger.find(NAME).tiers["quick"].scorers)
    scorers = Scorers.load(reader, clip)
    scenes = Shapes("validation", 100).scenes(range(100))
    real = quality.renders(scenes, scorers)
    assert intervals.share(real.attributes()).value >= 0.99
    others = quality.score("others' captions", real.images, scenes[1:] + scenes[:1], scorers)
    assert real.similarity.mean() > others.similarity.mean() + 0.3
    assert intervals.share(others.attributes()).value < 0.6


def test_on_pictures_50_steps_have_the_guidance_of_the_lowest_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's FID is the best of its curve; all other rows have the one guidance that is declared."""

    class Scored:
        captions = ("a", "b")

        @staticmethod
        def distance(guidance: float) -> float:
            return abs(guidance - 3)

        @staticmethod
        def best() -> dict[str, float]:
            return {}

    class Swept(float):
        seconds = None

    monkeypatch.setattr(Experiment, "images", lambda *_, guidance, **__: Swept(guidance))
    found = experiment(NAME, "paper", guidance=7.5).measure(Scored(), seed=0)  # type: ignore[type-var]
    assert found == {"50": 2.5, "8": 7.5, "1": 1, "8-ddim": 7.5, "8-dpm++": 7.5, "1-ddim": 7.5}
