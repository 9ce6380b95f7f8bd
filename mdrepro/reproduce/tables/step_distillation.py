"""Table ``snapfusion-step-distillation``: 8 steps by several ways, and FID-CLIP curves over guidance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mdrepro.data.shapes import Scene
from mdrepro.metrics.clip_score import clip_score
from mdrepro.reproduce.rows import Row
from mdrepro.reproduce.tables import curves, quality
from mdrepro.reproduce.tables.curves import Curve, Levels, Line
from mdrepro.reproduce.tables.quality import Found, Scorers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES: Mapping[str, Line] = MappingProxyType(
    {
        "table2-meng": Line("shapes-8-w", 8),
        "table2-ours": Line("shapes-8-direct", 8),
        "progressive-8": Line("shapes-8-plain", 8),
        "curve-sd15": Line("shapes-base", 50),
        "curve-ours": Line("shapes-8", 8),
        "teacher-cfg-distilled": Line("shapes-8-teacher-sd", 8),
        "teacher-self": Line("shapes-8-mixed", 8),
    }
)
"""Rows that are curves."""


@dataclass(frozen=True)
class Point:
    """A row that is made at one guidance scale: its line, and the sampler by name; None for the checkpoint's own."""

    line: Line
    sampler: str | None
    guided: bool = True


POINTS: Mapping[str, Point] = MappingProxyType(
    {
        "table2-dpm": Point(Line("shapes-base", 8), "dpm"),
        "table2-dpm++": Point(Line("shapes-base", 8), "dpm++"),
        "ddim-8": Point(Line("shapes-base", 8), "ddim"),
        "lcm-8": Point(Line("shapes-8-lcm", 8), None, guided=False),
    }
)
SHOWN = ("ddim-50", "ddim-8", "table2-dpm", "table2-dpm++", "table2-meng", "table2-ours", "progressive-8", "lcm-8")
"""Rows with the numbers of Table 2, in the order of the figure."""
OF_CURVES = MappingProxyType({"ddim-50": "curve-sd15"})
"""Rows that are a curve's point at the one guidance scale."""
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
RECIPES = (
    *quality.SCORERS,
    *dict.fromkeys(line.recipe for line in LINES.values()),
    *dict.fromkeys(point.line.recipe for point in POINTS.values() if point.line.recipe != "shapes-base"),
)


def trace(
    pipelines: Mapping[str, Any],
    scored_by: Scorers,
    scenes: Sequence[Scene],
    *,
    scales: Sequence[float],
    seed: int,
) -> dict[str, Curve]:
    """All curves of the table; arguments as for `curves.trace`, with pipelines by recipe."""
    return {
        row: curves.trace(line, pipelines[line.recipe], scenes, scored_by, scales=scales, seed=seed)
        for row, line in LINES.items()
    }


def measure(
    pipelines: Mapping[str, Any],
    traced: Mapping[str, Curve],
    scored_by: Scorers,
    scenes: Sequence[Scene],
    *,
    guidance: float,
    seed: int,
) -> dict[str, Found]:
    """The rows of Table 2 at one guidance scale, from the same noise: points of curves, and other samplers.

    Args:
        pipelines: by recipe.
        traced: from `trace`.
        scored_by, scenes, seed: as for `trace`.
        guidance: w, one of the curves' scales.

    Raises:
        BadInput: w is no scale of the curves.
    """
    done = {}
    for row in SHOWN:
        if row in POINTS:
            point = POINTS[row]
            done[row] = curves.point(
                point.line,
                pipelines[point.line.recipe],
                scenes,
                scored_by,
                guidance=guidance if point.guided else 1.0,
                sampler=point.sampler,
                seed=seed,
            )
        else:
            done[row] = traced[OF_CURVES.get(row, row)].at(guidance)
    return done


def rows(measured: Mapping[str, Found], levels: Mapping[str, Levels], renders: Found, scored_by: str) -> list[Row]:
    """All cells of the table that can be measured at this size.

    Args:
        measured: from `measure`.
        levels: of the curves, from `curves.levels`.
        renders: the captions' own, from `quality.renders`.
        scored_by: what scored, in words.
    """
    cells = []
    n = len(renders.judgements)
    drawn = curves.counts(n)
    fid = {row: curves.distances(found.features, renders.features, drawn) for row, found in measured.items()}
    for row, found in measured.items():
        told = f"{found.how}; {n} captions of the test split; {scored_by}; {quality.SPREAD}"
        cells.append(quality.cell(row, "fid_shapes", curves.interval(fid[row], n), f"{curves.TO_RENDERS}; {told}"))
        if row in OTHERS:
            share = curves.interval(fid[row] / fid[OURS], n)
            cells.append(quality.cell(row, "fid_shapes_ratio", share, f"over that of row {OURS}; {told}"))
        cells.append(quality.cell(row, "clip_shapes", clip_score(found.similarity), f"mean cosine; {told}"))
        cells.append(quality.cell(row, "attribute_accuracy", quality.share(found.attributes()), told))
        steps = (LINES[OF_CURVES.get(row, row)] if row not in POINTS else POINTS[row].line).steps
        cells.append(Row(row=row, column="steps", value=steps, unit="", protocol=found.how))
    for panel in PANELS.values():
        cells += curves.rows({row: levels[row] for row in panel}, scored_by, AGAINST)
    reason = (
        "needs a base model with another text encoder, trained to teach: mdrepro train has no recipe of one; "
        "see mdrepro/training/recipes_students.py"
    )
    cells.append(Row(row="teacher-sd2", column=curves.BEST_FID, value=None, unit="", protocol="", reason=reason))
    return cells


def curves_figure(levels: Mapping[str, Levels]) -> "Figure":
    """The curves of each panel, side by side."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(4.2 * len(PANELS), 3.6), layout="constrained")
    for axis, (title, panel) in zip(axes, PANELS.items(), strict=True):
        curves.draw(axis, {row: levels[row] for row in panel}, title)
    plt.close(figure)
    return figure
