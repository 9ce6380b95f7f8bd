"""Table ``snapfusion-step-distillation``: 8 steps by several methods, and FID-CLIP curves over guidance."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from mdrepro.core import plotting
from mdrepro.evaluation import curves
from mdrepro.evaluation.curves import Curve, Levels
from mdrepro.evaluation.experiment import Experiment, no_recipe
from mdrepro.evaluation.intervals import SPREAD
from mdrepro.evaluation.protocol import Evaluation, Scored, caption_count
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.image.clip_score import clip_score
from mdrepro.papers import ledger

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("ddim-50", "ddim-8", "table2-dpm", "table2-dpm++", "table2-meng", "table2-ours", "progressive-8", "lcm-8")
"""Rows with the numbers of Table 2, in the order of the figure."""
PANELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Table 2": ("table2-ours", "table2-meng", "progressive-8"),
        "Fig. 4 left": ("curve-ours", "curve-sd15"),
        "Fig. 4 right": ("teacher-cfg-distilled", "teacher-self"),
    }
)
"""Curves that are compared."""
AGAINST: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("progressive-8", curves.BEST_CLIP): "table2-ours",
        ("curve-ours", curves.CLIP_AT_FID): "curve-sd15",
        ("curve-ours", curves.BEST_FID): "curve-sd15",
        ("teacher-self", curves.BEST_FID): "teacher-cfg-distilled",
    }
)
"""Ratios that claims are about; see `curves.rows`."""
OURS, OTHERS = "table2-ours", ("ddim-8", "table2-dpm", "table2-dpm++", "table2-meng")
"""Rows of Table 2 whose FID is divided by that of ours."""
FIG4 = MappingProxyType({"curve-sd15": "fig4-sd15-cfg", "curve-ours": "fig4-ours-cfg"})
"""Rows of a curve's single points, on COCO, by the row of the curve: with the guidance scale at their end."""
NO_TEACHER = (
    "needs a base model with another text encoder, trained to teach: mdrepro train has no recipe of one; "
    "see mdrepro/training/recipes/students.py"
)


def panels(experiment: Experiment) -> dict[str, tuple[str, ...]]:
    """Curves that are compared, as far as the tier declares them: two or more in each panel."""
    curved = {row for row, setup in experiment.setups.items() if setup.scales}
    declared = {title: tuple(row for row in panel if row in curved) for title, panel in PANELS.items()}
    return {title: panel for title, panel in declared.items() if len(panel) > 1}


def trace(experiment: Experiment, scored: Evaluation[Scored], *, seed: int) -> dict[str, Curve[Scored]]:
    """All curves that are compared, by row; see `Experiment.curves`."""
    compared = [row for panel in panels(experiment).values() for row in panel]
    return experiment.curves(scored, seed=seed, rows=compared)


def measure(
    experiment: Experiment, traced: Mapping[str, Curve[Scored]], scored: Evaluation[Scored], *, seed: int
) -> dict[str, Scored]:
    """The rows of Table 2 at one guidance scale, from the same noise: points of curves, and other samplers.

    Args:
        experiment: the rows.
        traced: curves of the same captions, from `trace`; none where the rows are of others.
        scored: the captions, and what scores.
        seed: of the noise.

    Raises:
        BadInput: the guidance is no scale of the curves.
    """
    shown = [row for row in SHOWN if row in experiment.setups]
    return {row: experiment.point(row, traced, scored, seed=seed) for row in shown}


def rows(
    experiment: Experiment,
    measured: Mapping[str, Scored],
    traced: Mapping[str, Curve[Scored]],
    levels: Mapping[str, Levels],
    for_curves: Evaluation[Scored],
    for_rows: Evaluation[Scored],
) -> list[Row]:
    """All cells of the table that can be measured at this tier.

    Args:
        experiment: the rows.
        measured: from `measure`.
        traced: from `trace`.
        levels: of the curves.
        for_curves, for_rows: what scored the curves, and the rows of Table 2.
    """
    cells: list[Row] = []
    n = len(for_rows.captions)
    drawn = curves.counts(n, for_rows.resamples)
    column = for_rows.column
    fid = {row: for_rows.distances(images, drawn) for row, images in measured.items()}
    for row, images in measured.items():
        protocol = f"{images.description}; {n} {for_rows.caption_set}; {for_rows.scoring}; {SPREAD}"
        distance = curves.interval(fid[row], n)
        cells.append(Row.measured(row, column("fid_shapes"), distance, f"{for_rows.distance_to}; {protocol}"))
        if row in OTHERS and OURS in fid:
            ratio = curves.interval(fid[row] / fid[OURS], n)
            cells.append(Row.measured(row, column("fid_shapes_ratio"), ratio, f"over that of row {OURS}; {protocol}"))
        cells.append(
            Row.measured(row, column("clip_shapes"), clip_score(images.similarity), f"mean cosine; {protocol}")
        )
        cells += for_rows.accuracy(row, images, protocol)
        steps = experiment.setups[row].steps
        cells.append(Row(row, "steps", steps, images.description))
    for panel in panels(experiment).values():
        cells += curves.rows({row: levels[row] for row in panel}, for_curves, AGAINST)
    cells += single_points(traced, levels, for_curves)
    for row in (row for row in SHOWN if row not in measured):
        cells.append(Row.absent(row, column("fid_shapes"), no_recipe(experiment.tier)))
    return [*cells, Row.absent("teacher-sd2", for_curves.column(curves.BEST_FID), NO_TEACHER)]


def single_points(
    traced: Mapping[str, Curve[Scored]], levels: Mapping[str, Levels], scored: Evaluation[Scored]
) -> list[Row]:
    """The paper's points of Fig. 4 left; on scenes there are none to compare them with."""
    cells: list[Row] = []
    if scored.column("fid_shapes") == "fid_shapes":
        return cells
    declared = ledger.find("snapfusion-step-distillation").rows
    for row in (row for row in FIG4 if row in traced):
        for index, (scale, images) in enumerate(zip(traced[row].scales, traced[row].points, strict=True)):
            name, one = f"{FIG4[row]}-{scale:.1f}", levels[row]
            if name in declared and round(scale, 1) == scale:
                protocol = f"{caption_count(images, scored)}; {scored.scoring}; {SPREAD}"
                fid = curves.interval(one.fid[:, index], one.n)
                cells.append(Row.measured(name, "fid", fid, f"{scored.distance_to}; {protocol}"))
                cells.append(Row.measured(name, "clip", clip_score(images.similarity), f"mean cosine; {protocol}"))
    return cells


def curves_figure(experiment: Experiment, levels: Mapping[str, Levels], label: str = "[shapes]") -> "Figure":
    """The curves of each panel, side by side; ``label`` follows the scores' names."""
    shown = panels(experiment)
    with plotting.figure(1, len(shown), size=(4.2 * len(shown), 3.6)) as (figure, axes):
        for axis, (title, panel) in zip(axes, shown.items(), strict=True):
            curves.draw(axis, {row: levels[row] for row in panel}, title, label)
    return figure
