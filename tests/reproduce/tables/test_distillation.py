"""Tables of step distillation: their rows against their declarations, and what each row is made of."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mdrepro.core import plotting
from mdrepro.core.errors import BadInput
from mdrepro.data.shapes import Shapes
from mdrepro.evaluation import curves
from mdrepro.evaluation import scenes as quality
from mdrepro.evaluation.curves import Curve
from mdrepro.evaluation.experiment import Experiment, guidance_scales
from mdrepro.evaluation.scenes import SceneImages, Scenes
from mdrepro.metrics.image.scenes import Judgement
from mdrepro.papers import ledger
from mdrepro.reproduce.tables import distillation_ablations, step_distillation
from mdrepro.reproduce.workflow.parameters import declared
from mdrepro.reproduce.workflow.record import complete
from mdrepro.sampling import generate
from mdrepro.training.recipes import registry
from mdrepro.training.runs import loaded
from tests.support.checkout import REPOSITORY
from tests.support.experiments import experiment, scored, trained

N, WIDTH = 60, 4
SCALES = (1.5, 3.0, 8.0)
STUDENTS = ("steps", "progressive", "guidance", "conditioned", "consistency")
TABLES = {
    "snapfusion-step-distillation": step_distillation,
    "snapfusion-distillation-ablations": distillation_ablations,
}


def right(value: bool) -> Judgement:
    return Judgement(value, value, (value,), (value,), (value,), ())


def scored_images(shift: float, clip: float, how: str = "") -> SceneImages:
    """Images whose first share of ``clip`` is right."""
    rng = np.random.default_rng(0)
    features, similarity = rng.normal(size=(N, WIDTH)) + shift, clip + 0.1 * rng.normal(size=N)
    judged = [right(index < clip * N) for index in range(N)]
    return SceneImages(how, torch.zeros(N, 3, 1, 1, dtype=torch.uint8), judged, features, similarity, 2.0)


def curve(better: float, how: str = "") -> Curve:
    """Lowest FID in the middle, highest CLIP score at the end; both better by ``better``."""
    points = (
        (scored_images(2 - better, 0.2 + better),),
        (scored_images(1 - better, 0.3 + better),),
        (scored_images(2 - better, 0.4 + better),),
    )
    return Curve(how, SCALES, points)


ON_SCENES = scored(scenes=Shapes("test", N).scenes(range(N)), renders=scored_images(0, 0.5))


@pytest.mark.parametrize("name", TABLES)
def test_the_default_guidance_is_a_scale_of_the_curves(name: str) -> None:
    table = ledger.find(name)
    assert table.notebook
    defaults = declared(REPOSITORY / table.notebook)
    scales = guidance_scales(defaults["scales"].default)
    assert defaults["guidance"].default in scales
    assert list(scales) == sorted(set(scales))


def test_students_stand_in_the_row_that_their_recipe_is_of() -> None:
    """What a panel varies, read from the row's name and from the recipe; here 4 steps stand for the paper's 8."""
    lines = ledger.find("snapfusion-distillation-ablations").networks("quick")
    default = {"steps": 4, "probability": 0.1, "guidance": (2.0, 14.0), "gamma": 0.2, "drop": 0.1}
    varied: dict[str, dict[str, Any]] = {
        "fig6c-vanilla": {"probability": 0.0},
        "fig6c-cfg": {"probability": 1.0},
        "fig6c-mixed": {},
        "fig6d-vanilla": {"probability": 0.0},
        "fig6d-range-3-p-0.1": {"guidance": (3.0, 3.0)},
        "fig6d-range-2-14-p-0.1": {},
        "fig6d-range-2-14-p-0.2": {"probability": 0.2},
        "fig6d-range-7-14-p-0.2": {"probability": 0.2, "guidance": (7.0, 14.0)},
        "fig6d-range-2-14-p-0.5": {"probability": 0.5},
        "fig6d-range-2-14-p-1.0": {"probability": 1.0},
        "fig7a-with": {},
        "fig7a-without": {"gamma": 0.0},
        "fig7b-dynamic-0.01": {"gamma": 0.01},
        "fig7b-dynamic-0.2": {},
        "fig7b-dynamic-1.0": {"gamma": 1.0},
        "fig7b-constant-0.0": {"gamma": 0.0},
        "fig7b-constant-1.0": {"gamma": 1.0, "scaling": "constant"},
        "fig7c-teacher-16": {},
        "fig7c-teacher-32": {"teacher_steps": 16},
        "fig7c-teacher-64": {"teacher_steps": 32},
    }
    assert set(varied) == {row for row in lines if row[:5] not in ("fig6a", "fig6b")}
    for row, changes in varied.items():
        recipe = registry.get(lines[row].recipe)
        assert recipe.options == default | changes, row
        assert recipe.parents["unet"] == "shapes-8"
        assert recipe.parents.get("teacher") == ("shapes-base" if "teacher_steps" in changes else None)
        assert recipe.loop == registry.get("shapes-4-mixed").loop


def history(name: str) -> list[str]:
    """The recipes from shapes-base to this one."""
    parent = registry.get(name).parents["unet"]
    return [*([] if parent == "shapes-base" else history(parent)), name]


def test_what_is_compared_has_had_as_many_updates_of_as_many_samples() -> None:
    """Students of one comparison, from shapes-base on: claims of Table 2 and Figs. 6a and 6b rest on it.

    The network that w becomes an input of, which the others need not learn, is on top.
    """
    compared = ("shapes-4-direct", "shapes-4-chain", "shapes-4-plain", "shapes-4-w", "shapes-4-lcm")
    for name in compared:
        loops = [registry.get(step).loop for step in history(name) if step != "shapes-w"]
        assert sum(loop.steps for loop in loops) == 450, name
        assert {loop.batch for loop in loops} == {32}
    steps = [[registry.get(step).sampling["steps"] for step in history(name)] for name in compared]
    assert steps == [[8, 4], [16, 8, 4], [8, 4], [50, 8, 4], [4]]


def test_students_that_are_guided_learn_the_empty_texts_branch() -> None:
    """Of every tier; those whose w is an input, or who are sampled without, have no such branch."""
    students = {name: registry.get(name) for name in registry.RECIPES if registry.get(name).kind in STUDENTS}
    assert {name for name, one in students.items() if one.options.get("drop") != 0.1} == {
        *("shapes-w", "shapes-8-w", "shapes-4-w", "shapes-4-lcm")
    }
    assert len(students) > 30


def test_ablations_fill_the_declared_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotting, "label_points", lambda *_, **__: None)
    monkeypatch.setattr(Experiment, "references", lambda *_: {})
    table = ledger.find("snapfusion-distillation-ablations")
    made = experiment(table.id)
    shared = {
        setup: curve(0.01 * index, setup.recipe) for index, setup in enumerate(dict.fromkeys(made.setups.values()))
    }
    traced = {row: shared[setup] for row, setup in made.setups.items()}
    levels = curves.levels(traced, ON_SCENES)
    rows = complete(table, distillation_ablations.rows(made, traced, levels, ON_SCENES))
    cells = {(row.row, row.column): row for row in rows}
    wanted = {key for claim in table.claims for condition in claim.conditions for key in condition.cells()}
    assert wanted <= {f"{row}/{column}" for row, column in cells}
    left_out = {row for row, column in cells if column in curves.COLUMNS and cells[row, column].value is None}
    assert left_out == {"fig7d-sd2-8", "fig7d-sd2-50"}
    # one student in two panels has one lowest FID, and a common FID of each panel's own
    same = [cells[row, "best_fid_shapes"].value for row in ("fig6c-mixed", "fig7a-with", "fig7c-teacher-16")]
    assert len(set(same)) == 1
    told = [cells[row, "clip_at_common_fid"].protocol for row in ("fig6c-mixed", "fig7a-with")]
    assert "common to fig6c-vanilla, fig6c-cfg, fig6c-mixed" in told[0]
    assert "common to fig7a-with, fig7a-without" in told[1]
    index = list(shared).index(made.setups["fig7a-with"])
    accuracy = np.ceil((0.3 + 0.01 * index) * N) / N
    assert cells["fig7a-with", "attribute_accuracy"].value == pytest.approx(accuracy)
    with pytest.raises(BadInput, match="guidance 4 is no point"):
        distillation_ablations.rows(experiment(table.id, guidance=4.0), traced, levels, ON_SCENES)
    assert set(table.controls) == {key for key in wanted if key.endswith("_ratio")}, "each ratio is of a claim"
    two, other = (cells[row, "best_fid_shapes"].value for row in ("fig7c-teacher-64", "fig7c-teacher-16"))
    assert cells["fig7c-teacher-64", "best_fid_shapes_ratio"].value == pytest.approx(two / other)
    figure = distillation_ablations.figure(levels)
    assert sum(axis.get_visible() for axis in figure.axes) == len(distillation_ablations.panels(levels)) == 7
    assert len(figure.axes[3].lines) == 7


def test_step_distillation_fills_the_declared_cells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[Any, ...]] = []

    def images(pipeline: Any, prompts: Any, **options: Any) -> torch.Tensor:
        run = loaded.run_of(pipeline.unet)
        assert run is not None
        calls.append((run.recipe.name, *(options[name] for name in ("steps", "guidance", "sampler", "seed"))))
        return torch.zeros(N, 3, 64, 64, dtype=torch.uint8)

    monkeypatch.setattr(generate, "images", images)
    monkeypatch.setattr(quality, "score", lambda description, *_: scored_images(0.5, 0.25, description))
    trained(monkeypatch, tmp_path)
    table = ledger.find("snapfusion-step-distillation")
    made = experiment(table.id)
    curved = [row for row, setup in made.setups.items() if setup.scales]
    traced = {row: curve(0.01 * index, row) for index, row in enumerate(curved)}
    monkeypatch.setattr(Scenes, "networks", {})
    monkeypatch.setattr(Experiment, "references", lambda *_: {"real": (ON_SCENES.renders,)})
    measured = step_distillation.measure(made, traced, ON_SCENES, seed=5)
    assert list(measured) == [*step_distillation.SHOWN, "real"]
    assert calls == [
        ("shapes-base", 50, 3.0, "ddim", 5),
        ("shapes-base", 4, 3.0, "ddim", 5),
        ("shapes-base", 4, 3.0, "dpm", 5),
        ("shapes-base", 4, 3.0, "dpm++", 5),
        ("shapes-4-lcm", 4, 1.0, None, 5),
        ("shapes-w", 50, 3.0, "ddim", 5),
        ("shapes-snap-4", 4, 3.0, "ddim", 5),
    ]
    for row, other in (("sd15-50", "curve-sd15"), ("table2-ours", "table2-ours")):
        assert measured[row][0].features is traced[other].points[1][0].features
    levels = curves.levels(traced, ON_SCENES)
    rows = complete(table, step_distillation.rows(made, measured, traced, levels, ON_SCENES, ON_SCENES))
    cells = {(row.row, row.column): row for row in rows}
    wanted = {key for claim in table.claims for condition in claim.conditions for key in condition.cells()}
    assert wanted <= {f"{row}/{column}" for row, column in cells}
    assert cells["teacher-sd2", "best_fid_shapes_ratio"].reason
    assert cells["ddim-8", "distance_shapes"].value == pytest.approx(WIDTH * 0.5**2)  # moved by a half in each feature
    assert cells["ddim-8", "clip_shapes"].value == pytest.approx(scored_images(0, 0.25).similarity.mean())
    assert cells["ddim-8", "attribute_accuracy"].value == pytest.approx(0.25)
    assert cells["table2-ours", "distance_shapes"].value == pytest.approx(WIDTH * (1 - 0.01) ** 2)
    ours = cells["table2-ours", "distance_shapes"].value
    for row in ("ddim-8", "table2-dpm", "table2-dpm++", "table2-meng"):
        share = cells[row, "distance_shapes_ratio"]
        assert share.value == pytest.approx(cells[row, "distance_shapes"].value / ours)
        assert "over that of row table2-ours" in share.protocol
    assert cells["ddim-50", "steps"].value == 50
    assert cells["lcm-8", "steps"].value == 4
    assert ("ddim-8", "scene_accuracy") not in cells
    assert "common to curve-ours, curve-sd15" in cells["curve-sd15", "clip_at_common_fid"].protocol
    figure = step_distillation.curves_figure(made, levels)
    assert [axis.get_title("left") for axis in figure.axes] == ["Table 2", "Fig. 4 left", "Fig. 4 right"]


def test_every_curve_of_step_distillation_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    made = experiment("snapfusion-step-distillation")
    monkeypatch.setattr(Experiment, "curves", lambda _, scored, *, seed, rows: list(rows))
    traced = step_distillation.trace(made, ON_SCENES, seed=0)
    assert set(traced) == {row for row, setup in made.setups.items() if setup.scales}
    assert set(step_distillation.panels(made)) == set(step_distillation.PANELS)
