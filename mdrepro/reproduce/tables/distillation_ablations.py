"""Table ``snapfusion-distillation-ablations``: FID-CLIP curves of students that differ in one thing."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from mdrepro.core import plotting
from mdrepro.evaluation import curves
from mdrepro.evaluation.curves import BEST_CLIP, BEST_FID, CLIP_AT_FID, FID_AT_CLIP, Curve, Levels
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.intervals import SPREAD
from mdrepro.evaluation.protocol import Evaluation, Scored, caption_count
from mdrepro.evaluation.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
DEFAULTS = MappingProxyType({"6d": "fig6d-range-2-14-p-0.1", "7b": "fig7b-dynamic-0.2", "7c": "fig7c-teacher-16"})
AGAINST: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("fig6a-direct", BEST_FID): "fig6a-progressive",
        ("fig6a-direct", BEST_CLIP): "fig6a-progressive",
        ("fig6b-w-conditioned-8", BEST_CLIP): "fig6b-ours-8",
        ("fig6b-w-conditioned-16", BEST_CLIP): "fig6b-ours-8",
        ("fig6c-mixed", CLIP_AT_FID): "fig6c-vanilla",
        ("fig6c-mixed", BEST_FID): "fig6c-vanilla",
        ("fig6c-mixed", BEST_CLIP): "fig6c-cfg",
        ("fig6c-cfg", BEST_FID): "fig6c-vanilla",
        ("fig6c-cfg", BEST_CLIP): "fig6c-vanilla",
        ("fig6d-vanilla", BEST_FID): DEFAULTS["6d"],
        ("fig6d-vanilla", BEST_CLIP): DEFAULTS["6d"],
        ("fig6d-range-2-14-p-1.0", BEST_FID): DEFAULTS["6d"],
        ("fig6d-range-2-14-p-1.0", BEST_CLIP): DEFAULTS["6d"],
        ("fig6d-range-3-p-0.1", BEST_CLIP): DEFAULTS["6d"],
        ("fig6d-range-7-14-p-0.2", BEST_CLIP): "fig6d-range-2-14-p-0.2",
        ("fig7a-with", FID_AT_CLIP): "fig7a-without",
        ("fig7a-with", BEST_CLIP): "fig7a-without",
        ("fig7b-dynamic-0.01", BEST_FID): DEFAULTS["7b"],
        ("fig7b-dynamic-1.0", BEST_FID): DEFAULTS["7b"],
        ("fig7b-constant-1.0", BEST_FID): DEFAULTS["7b"],
        ("fig7c-teacher-32", BEST_FID): DEFAULTS["7c"],
        ("fig7c-teacher-64", BEST_FID): DEFAULTS["7c"],
        ("fig7c-teacher-32", BEST_CLIP): DEFAULTS["7c"],
        ("fig7c-teacher-64", BEST_CLIP): "fig7c-teacher-32",
    }
)
"""Ratios that claims are about; see `curves.rows`."""
ANOTHER_BASE = ("fig7d-sd2-8", "fig7d-sd2-50")
NO_BASE = "needs another base model, of another text encoder, and its students: there are no recipes of them yet"


def panels(by_row: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Rows by the panel of the figure that they stand in, ``fig6a-direct`` in ``Fig. 6a``: those are compared."""
    grouped: dict[str, dict[str, T]] = {}
    for row, value in by_row.items():
        grouped.setdefault(f"Fig. {row[3:5]}", {})[row] = value
    return grouped


def rows(
    experiment: Experiment,
    traced: Mapping[str, Curve[Scored]],
    levels: Mapping[str, Levels],
    scored: Evaluation[Scored],
) -> list[Row]:
    """All cells of the table that can be measured at this size.

    Args:
        experiment: the rows.
        traced: the curve of each row.
        levels: of the curves.
        scored: what scored.

    Raises:
        BadInput: the guidance of the attribute accuracy is no scale of the curves.
    """
    cells = []
    for panel in panels(levels).values():
        cells += curves.rows(panel, scored, AGAINST)
    for row, curve in traced.items():
        images = curve.point(experiment.setups[row].guidance)
        protocol = f"{caption_count(images, scored)}; {scored.scoring}; {SPREAD}"
        cells += scored.accuracy(row, images, protocol)
    return cells + [
        Row.absent(row, scored.column(column), NO_BASE) for row in ANOTHER_BASE for column in (BEST_FID, BEST_CLIP)
    ]


def figure(levels: Mapping[str, Levels]) -> "Figure":
    """The curves of all panels."""
    shown = panels(levels)
    with plotting.figure(2, 4, size=(15, 7)) as (drawn, axes):
        for axis, (title, panel) in zip(axes, shown.items(), strict=False):
            curves.draw(axis, panel, title)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
    return drawn
