"""Table of 50, 8 and 1 steps: shares and intervals against closed forms, rows against the table's declaration."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mdrepro.data.shapes import Shapes, render
from mdrepro.evaluation import networks
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.protocol import Measure
from mdrepro.evaluation.rows import Row
from mdrepro.evaluation.scenes import SceneImages, Scorers
from mdrepro.metrics.image.scenes import Judgement, judge
from mdrepro.metrics.image.statistics import Statistics
from mdrepro.models.scenes.reader import Reading, SceneReader
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import steps
from mdrepro.reproduce.workflow.record import complete
from mdrepro.training.runs import pipelines, store
from tests.support.experiments import experiment, scored, trained

NAME = "mobilediffusion-steps"
N = 80


def right(value: bool, things: int = 1) -> Judgement:
    return Judgement(value, value, (value,) * things, (value,) * things, (value,) * things, ())


@pytest.fixture(scope="module")
def measured() -> dict[str, tuple[SceneImages]]:
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
        done[row] = (SceneImages(row, pixels, judgements, seen, near, None if row == "real" else 8.0),)
    return done


@pytest.fixture
def rows(measured: dict[str, tuple[SceneImages]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Row]:
    """Of images whose features differ from the renders' by 1 in each feature for each row further down."""
    trained(monkeypatch, tmp_path)
    monkeypatch.setattr(networks, "denoiser_gmacs", lambda _: 0.5)
    (first,) = measured["50"]
    scenes = Shapes("test", N).scenes(range(N))
    renders = replace(first, features=first.features - 0.5)
    scene_set = scored(reference=Statistics.of(first.features), renders=renders, scenes=scenes)
    return steps.rows(experiment(NAME), measured, scene_set)


def test_rows_are_the_declared_ones(rows: list[Row]) -> None:
    cells = {(row.row, row.column): row for row in rows}
    complete(ledger.find(NAME), rows)
    assert cells["8", "clip_shapes"].value == pytest.approx(0.8)
    assert cells["50", "fid_shapes"].value == pytest.approx(0, abs=1e-6)
    assert cells["8", "fid_shapes"].value == pytest.approx(16, rel=1e-6)  # 16 features moved by 1
    assert cells["8", "distance_shapes"].value == pytest.approx(16 * 1.5**2, rel=1e-6)
    assert cells["8", "distance_shapes_over_50"].value == pytest.approx(3**2, rel=1e-6)
    assert cells["8", "distance_shapes_over_ddim"].value == pytest.approx((1.5 / 3.5) ** 2, rel=1e-6)
    assert cells["8", "distance_shapes_over_dpm"].value == pytest.approx((1.5 / 4.5) ** 2, rel=1e-6)
    assert cells["8", "clip_shapes_over_50"].value == pytest.approx(0.8 / 0.9)
    assert cells["1", "scene_accuracy"].value == pytest.approx(1 - 2 / N)
    assert cells["8", "attribute_accuracy_minus_50"].value < 0
    assert cells["50", "seconds_per_image"].value == pytest.approx(8.0 / N)
    assert ("real", "seconds_per_image") not in cells
    wanted = {key for claim in ledger.find(NAME).claims for key in claim.cells()}
    assert wanted <= {f"{row}/{column}" for row, column in cells}


def test_the_grid_frames_what_is_wrong(measured: dict[str, tuple[SceneImages]], rows: list[Row]) -> None:
    scenes = Shapes("test", N).scenes(range(N))
    figure = scored(scenes=scenes).grid(measured, 4)
    framed = [[axis.spines["left"].get_visible() for axis in figure.axes[i * 4 : i * 4 + 4]] for i in range(4)]
    assert framed == [[False] * 4, [True, False, False, False], [True, True, False, False], [True, True, True, False]]


def test_the_figure_names_its_rows_and_the_better_direction_and_marks_fewer_seeds(rows: list[Row]) -> None:
    seeds = {"50": 3, "8": 3, "1": 3, "8-ddim": 1}
    cells = [replace(row, by_seed=(row.value or 0.0,) * seeds.get(row.row, 3)) for row in rows]
    left, right = steps.quality_figure(cells).axes
    titles = [axis.get_title("left") for axis in (left, right)]
    assert titles == ["Attribute accuracy: higher is better", "Paired distance[shapes]: lower is better"]
    names = [label.get_text().replace("\n", " ") for label in left.get_yticklabels()]
    assert "the undistilled model at 8 DDIM steps (1 training seed)" in names
    assert "MobileDiffusion, 50 DDIM steps" in names
    assert not set(names) & set(ledger.find(NAME).rows)
    white = [container[0].get_markerfacecolor() == "white" for container in left.containers]
    assert sum(white) == 1


def test_compute_is_evaluations_times_branches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = store.find("shapes-base")
    assert run is not None
    pipeline = pipelines.load("shapes-base")
    trained(monkeypatch, tmp_path)
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
    assert np.divide(*real.right()[:, :2].sum(axis=0)) >= 0.99
    others = quality.score("others' captions", real.images, scenes[1:] + scenes[:1], scorers)
    assert real.similarity.mean() > others.similarity.mean() + 0.3
    assert np.divide(*others.right()[:, :2].sum(axis=0)) < 0.6


def test_on_pictures_50_and_8_steps_have_the_guidance_of_the_lowest_fid(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's FID is the best of its curve; one undistilled step has the one guidance that is declared."""
    nearness: Measure[Any] = Measure("", "distance", 1, lambda images: np.array([abs(images.w - 3)]))
    evaluation: Any = SimpleNamespace(captions=("a", "b"), distance="fid", measures={"fid": nearness})
    monkeypatch.setattr(Experiment, "images", lambda *_, guidance, **__: (SimpleNamespace(w=guidance, seconds=None),))
    monkeypatch.setattr(Experiment, "references", lambda *_: {})
    found = experiment(NAME, "paper", guidance=7.5).measure(evaluation, seed=0)
    guidance = {row: images.w for row, (images,) in found.items()}
    assert guidance == {"50": 2.5, "8": 2.5, "1": 1, "8-ddim": 2.5, "8-dpm++": 2.5, "1-ddim": 7.5}
