"""Table ``snapfusion-step-distillation``: 8 steps by several methods, and FID-CLIP curves over guidance."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation import curves, estimators
from mdrepro.evaluation.curves import Curve, Levels
from mdrepro.evaluation.experiment import Experiment, no_recipe
from mdrepro.evaluation.protocol import Evaluation, Replicas, Scored, caption_count
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.jackknife import Estimate
from mdrepro.papers import ledger
from mdrepro.reproduce.formatting import row_titles

SHOWN = (
    *("ddim-50", "ddim-8", "table2-dpm", "table2-dpm++", "table2-meng", "table2-ours", "progressive-8", "lcm-8"),
    *("w-conditioned-50", "sd15-50", "snapfusion-8"),
)
"""Rows with the numbers of Table 2 and of whole systems, in the order of the figure."""
PANELS: Mapping[str, tuple[str, ...]] = {
    "Table 2": ("table2-ours", "table2-meng", "progressive-8"),
    "Fig. 4 left": ("curve-ours", "curve-sd15"),
    "Fig. 4 right": ("teacher-cfg-distilled", "teacher-self"),
}
"""Curves that are compared."""
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
) -> dict[str, Replicas[Scored]]:
    """The rows of Table 2 at one guidance scale, from the same noise: points of curves, and other samplers.

    ``traced``: curves of the same captions, from `trace`; none where the rows are of others. Raises BadInput where the
    guidance is no scale of the curves.
    """
    shown = [row for row in SHOWN if row in experiment.setups]
    points = {row: experiment.point(row, traced, scored, seed=seed) for row in shown}
    untimed = {row: tuple(images.untimed() for images in replicas) for row, replicas in points.items()}
    return untimed | experiment.references(scored)


def rows(
    experiment: Experiment,
    measured: Mapping[str, Replicas[Scored]],
    traced: Mapping[str, Curve[Scored]],
    levels: Mapping[str, Levels],
    for_curves: Evaluation[Scored],
    for_rows: Evaluation[Scored],
) -> list[Row]:
    """All cells of the table that can be measured at this tier, from `measure`, `trace` and the curves' levels.

    ``for_curves``, ``for_rows``: what scored the curves, and the rows of Table 2.
    """
    table = ledger.find(experiment.table)
    cells = estimators.rows(table, measured, for_rows)
    for row in [row for row in measured if row in experiment.setups]:
        cells.append(Row(row, "steps", experiment.setups[row].steps, measured[row][0].description))
    for panel in panels(experiment).values():
        cells += curves.rows({row: levels[row] for row in panel}, for_curves, experiment.controls)
    cells += single_points(traced, levels, for_curves)
    lacking = [row for row in SHOWN if row not in measured]
    cells += [Row.absent(row, for_rows.column("fid_shapes"), no_recipe(experiment.tier)) for row in lacking]
    return [*cells, Row.absent("teacher-sd2", for_curves.column(f"{curves.BEST_FID}_ratio"), NO_TEACHER)]


def single_points(
    traced: Mapping[str, Curve[Scored]], levels: Mapping[str, Levels], scored: Evaluation[Scored]
) -> list[Row]:
    """The paper's points of Fig. 4 left; on scenes there are none to compare them with."""
    cells: list[Row] = []
    if scored.column("fid_shapes") == "fid_shapes":
        return cells
    table = ledger.find("snapfusion-step-distillation")
    for row, points in ((row, points) for row, points in table.curves.items() if row in traced):
        one = levels[row]
        for index, (scale, replicas) in enumerate(zip(traced[row].scales, traced[row].points, strict=True)):
            name = f"{points}-{scale:.1f}"
            if name not in table.rows or round(scale, 1) != scale:
                continue
            protocol = f"{caption_count(replicas[0], scored)}; {scored.scoring}"
            fid, clip = (Estimate(values[:, :, index], one.n) for values in (one.fid, one.clip))
            cells.append(estimators.cell(name, "fid", fid.distance(), f"{one.protocol}; {protocol}"))
            cells.append(estimators.cell(name, "clip", clip.mean(), f"mean cosine; {protocol}"))
    return cells


def curves_figure(experiment: Experiment, levels: Mapping[str, Levels], label: str = "[shapes]") -> Figure:
    """The curves of each panel, side by side; ``label`` follows the scores' names."""
    shown, names = panels(experiment), row_titles(ledger.find(experiment.table))
    with plotting.figure(1, len(shown), size=(4.2 * len(shown), 3.6)) as (figure, axes):
        for axis, (title, panel) in zip(axes, shown.items(), strict=True):
            curves.draw(axis, {row: levels[row] for row in panel}, title, label, names)
    return figure
