"""Table ``snapfusion-distillation-ablations``: FID-CLIP curves of students that differ in one thing."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mdrepro.core import plotting
from mdrepro.evaluation import curves, scenes
from mdrepro.evaluation.curves import BEST_CLIP, BEST_FID, CLIP_AT_FID, FID_AT_CLIP, Curve, Levels, Line
from mdrepro.evaluation.protocol import Evaluation
from mdrepro.evaluation.rows import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT = Line("shapes-8-mixed", 8)
PANELS: Mapping[str, Mapping[str, Line]] = MappingProxyType(
    {
        "Fig. 6a": {
            "fig6a-direct": Line("shapes-8-direct", 8),
            "fig6a-progressive": Line("shapes-8-chain", 8),
        },
        "Fig. 6b": {
            "fig6b-w-conditioned-16": Line("shapes-16-w", 16),
            "fig6b-w-conditioned-8": Line("shapes-8-w", 8),
            "fig6b-ours-8": Line("shapes-8-direct", 8),
            "fig6b-sd15-50": Line("shapes-base", 50),
        },
        "Fig. 6c": {
            "fig6c-vanilla": Line("shapes-8-vanilla", 8),
            "fig6c-cfg": Line("shapes-8-cfg", 8),
            "fig6c-mixed": DEFAULT,
        },
        "Fig. 6d": {
            "fig6d-vanilla": Line("shapes-8-vanilla", 8),
            "fig6d-range-3-p-0.1": Line("shapes-8-w3", 8),
            "fig6d-range-2-14-p-0.1": DEFAULT,
            "fig6d-range-2-14-p-0.2": Line("shapes-8-p20", 8),
            "fig6d-range-7-14-p-0.2": Line("shapes-8-p20-w7", 8),
            "fig6d-range-2-14-p-0.5": Line("shapes-8-p50", 8),
            "fig6d-range-2-14-p-1.0": Line("shapes-8-cfg", 8),
        },
        "Fig. 7a": {
            "fig7a-with": DEFAULT,
            "fig7a-without": Line("shapes-8-no-original", 8),
        },
        "Fig. 7b": {
            "fig7b-dynamic-0.01": Line("shapes-8-dynamic-001", 8),
            "fig7b-dynamic-0.2": DEFAULT,
            "fig7b-dynamic-1.0": Line("shapes-8-dynamic-1", 8),
            "fig7b-constant-0.0": Line("shapes-8-no-original", 8),
            "fig7b-constant-1.0": Line("shapes-8-constant-1", 8),
        },
        "Fig. 7c": {
            "fig7c-teacher-16": DEFAULT,
            "fig7c-teacher-32": Line("shapes-8-teacher-32", 8),
            "fig7c-teacher-64": Line("shapes-8-teacher-64", 8),
        },
    }
)
"""The rows of each panel, whose curves are compared. One student may stand in several: what a panel does not vary has
the paper's default."""
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
LINES = tuple(dict.fromkeys(line for panel in PANELS.values() for line in panel.values()))
RECIPES = (*scenes.SCORERS, *dict.fromkeys(line.recipe for line in LINES))
ANOTHER_BASE = ("fig7d-sd2-8", "fig7d-sd2-50")


def trace(pipelines: Mapping[str, Any], scored: Evaluation, *, scales: Sequence[float], seed: int) -> dict[Line, Curve]:
    """Each student's curve once; arguments as for `curves.trace`, with pipelines by recipe."""
    return {line: curves.trace(line, pipelines[line.recipe], scored, scales=scales, seed=seed) for line in LINES}


def panels(levels: Mapping[Line, Levels]) -> dict[str, dict[str, Levels]]:
    """The curves of each panel, by row."""
    return {title: {row: levels[line] for row, line in panel.items()} for title, panel in PANELS.items()}


def rows(traced: Mapping[Line, Curve], levels: Mapping[Line, Levels], scored: Evaluation, guidance: float) -> list[Row]:
    """All cells of the table that can be measured at this size.

    Args:
        traced: from `trace`.
        levels: of the curves, from `curves.levels`.
        scored: what scored.
        guidance: w of the attribute accuracy, one of the curves' scales.

    Raises:
        BadInput: w is no scale of the curves.
    """
    cells = []
    for drawn in panels(levels).values():
        cells += curves.rows(drawn, scored, AGAINST)
    for panel in PANELS.values():
        for row, line in panel.items():
            found = traced[line].at(guidance)
            how = f"{found.how}; {len(found.similarity)} {scored.of}; {scored.words}; {scenes.SPREAD}"
            cells += scored.accuracy(row, found, how)
    reason = "needs another base model, of another text encoder, and its students: there are no recipes of them yet"
    for row in ANOTHER_BASE:
        for column in (BEST_FID, BEST_CLIP):
            cells.append(Row.absent(row, scored.column(column), reason))
    return cells


def figure(levels: Mapping[Line, Levels]) -> "Figure":
    """The curves of all panels."""
    shown = panels(levels)
    with plotting.figure(2, 4, size=(15, 7)) as (drawn, axes):
        for axis, (title, panel) in zip(axes, shown.items(), strict=False):
            curves.draw(axis, panel, title)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
    return drawn
