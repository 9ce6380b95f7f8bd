"""Table ``snapfusion-distillation-ablations``: FID-CLIP curves of students that differ in one thing."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation import curves
from mdrepro.evaluation.curves import BEST_CLIP, BEST_FID, CLIP_AT_FID, FID_AT_CLIP, Curve, Levels
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.intervals import SPREAD
from mdrepro.evaluation.protocol import Evaluation, Scored, caption_count
from mdrepro.evaluation.rows import Row

_6D, _7B, _7C = "fig6d-range-2-14-p-0.1", "fig7b-dynamic-0.2", "fig7c-teacher-16"
_COMPARED = (
    ("fig6a-direct", "fig6a-progressive", BEST_FID, BEST_CLIP),
    ("fig6b-w-conditioned-8", "fig6b-ours-8", BEST_CLIP),
    ("fig6b-w-conditioned-16", "fig6b-ours-8", BEST_CLIP),
    ("fig6c-mixed", "fig6c-vanilla", CLIP_AT_FID, BEST_FID),
    ("fig6c-mixed", "fig6c-cfg", BEST_CLIP),
    ("fig6c-cfg", "fig6c-vanilla", BEST_FID, BEST_CLIP),
    ("fig6d-vanilla", _6D, BEST_FID, BEST_CLIP),
    ("fig6d-range-2-14-p-1.0", _6D, BEST_FID, BEST_CLIP),
    ("fig6d-range-3-p-0.1", _6D, BEST_CLIP),
    ("fig6d-range-7-14-p-0.2", "fig6d-range-2-14-p-0.2", BEST_CLIP),
    ("fig7a-with", "fig7a-without", FID_AT_CLIP, BEST_CLIP),
    ("fig7b-dynamic-0.01", _7B, BEST_FID),
    ("fig7b-dynamic-1.0", _7B, BEST_FID),
    ("fig7b-constant-1.0", _7B, BEST_FID),
    ("fig7c-teacher-32", _7C, BEST_FID, BEST_CLIP),
    ("fig7c-teacher-64", _7C, BEST_FID),
    ("fig7c-teacher-64", "fig7c-teacher-32", BEST_CLIP),
)
AGAINST = {(row, column): other for row, other, *columns in _COMPARED for column in columns}
"""Ratios that claims are about; see `curves.rows`."""
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
    cells = [row for panel in panels(levels).values() for row in curves.rows(panel, scored, AGAINST)]
    for row, curve in traced.items():
        images = curve.point(experiment.setups[row].guidance)
        protocol = f"{caption_count(images, scored)}; {scored.scoring}; {SPREAD}"
        cells += scored.accuracy(row, images, protocol)
    return cells + [
        Row.absent(row, scored.column(column), NO_BASE) for row in ANOTHER_BASE for column in (BEST_FID, BEST_CLIP)
    ]


def figure(levels: Mapping[str, Levels]) -> Figure:
    """The curves of all panels."""
    shown = panels(levels)
    with plotting.figure(2, 4, size=(15, 7)) as (drawn, axes):
        for axis, (title, panel) in zip(axes, shown.items(), strict=False):
            curves.draw(axis, panel, title)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
    return drawn
