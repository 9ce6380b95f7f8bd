"""Table ``snapfusion-distillation-ablations``: FID-CLIP curves of students that differ in one thing."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation import curves, estimators
from mdrepro.evaluation.curves import BEST_CLIP, BEST_FID, Curve, Levels
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.protocol import Evaluation, Scored
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.reproduce.formatting import row_titles

ANOTHER_BASE = ("fig7d-sd2-8", "fig7d-sd2-50")
NO_BASE = "needs another base model, of another text encoder, and its students: there are no recipes of them yet"


def panels(levels: Mapping[str, Levels]) -> dict[str, dict[str, Levels]]:
    """Rows by the panel of the figure that they stand in, ``fig6a-direct`` in ``Fig. 6a``: those are compared."""
    grouped: dict[str, dict[str, Levels]] = {}
    for row, value in levels.items():
        grouped.setdefault(f"Fig. {row[3:5]}", {})[row] = value
    return grouped


def rows(
    experiment: Experiment,
    traced: Mapping[str, Curve[Scored]],
    levels: Mapping[str, Levels],
    scored: Evaluation[Scored],
) -> list[Row]:
    """All cells of the table that can be measured at this size, by the curve of each row and its levels.

    Raises BadInput where the guidance of the attribute accuracy is no scale of the curves.
    """
    cells = [row for panel in panels(levels).values() for row in curves.rows(panel, scored, experiment.controls)]
    measured = {row: curve.point(experiment.setups[row].guidance) for row, curve in traced.items()}
    cells += estimators.rows(ledger.find(experiment.table), measured | experiment.references(scored), scored)
    return cells + [
        Row.absent(row, scored.column(column), NO_BASE) for row in ANOTHER_BASE for column in (BEST_FID, BEST_CLIP)
    ]


def figure(levels: Mapping[str, Levels]) -> Figure:
    """The curves of all panels."""
    shown, names = panels(levels), row_titles(ledger.find("snapfusion-distillation-ablations"))
    with plotting.figure(2, 4, size=(15, 7)) as (drawn, axes):
        for axis, (title, panel) in zip(axes, shown.items(), strict=False):
            curves.draw(axis, panel, title, names=names)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
    return drawn
