"""Table ``snapfusion-step-distillation``: 8 steps by several ways, and FID-CLIP curves over guidance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mdrepro.core import plotting
from mdrepro.evaluation import curves, networks, scenes
from mdrepro.evaluation.curves import Curve, Levels, Line
from mdrepro.evaluation.networks import Names
from mdrepro.evaluation.protocol import Evaluation
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.image.clip_score import clip_score
from mdrepro.papers import ledger

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
    *scenes.SCORERS,
    *dict.fromkeys(line.recipe for line in LINES.values()),
    *dict.fromkeys(point.line.recipe for point in POINTS.values() if point.line.recipe != "shapes-base"),
)


NETWORKS: Mapping[str, Names] = MappingProxyType(
    {
        "proxy": {"shapes-base": "proxy-sd", "shapes-8": "proxy-snap-8", "shapes-8-direct": "proxy-snap-8"},
        "paper": {"shapes-base": networks.PUBLISHED, "shapes-8": "sf-8", "shapes-8-direct": "sf-8"},
    }
)
FIG4 = MappingProxyType({"curve-sd15": "fig4-sd15-cfg", "curve-ours": "fig4-ours-cfg"})
"""Rows of a curve's single points, on COCO, by the row of the curve: with the guidance scale at their end."""


def lines(tier: str) -> dict[str, Line]:
    """Rows that are curves, as far as the tier has their networks."""
    chosen = {row: (networks.at(NETWORKS, tier, line.recipe), line) for row, line in LINES.items()}
    return {row: Line(name, line.steps) for row, (name, line) in chosen.items() if name}


def panels(tier: str) -> dict[str, tuple[str, ...]]:
    """Curves that are compared: of each panel, two or more."""
    known = lines(tier)
    there = {title: tuple(row for row in panel if row in known) for title, panel in PANELS.items()}
    return {title: panel for title, panel in there.items() if len(panel) > 1}


def points(tier: str) -> dict[str, Point]:
    """How each row of Table 2 is made at one guidance scale, as far as the tier has its network."""
    known = {row: Point(line, "ddim") for row, line in lines(tier).items()}
    made = {row: known[OF_CURVES.get(row, row)] for row in SHOWN if OF_CURVES.get(row, row) in known}
    for row, point in POINTS.items():
        if name := networks.at(NETWORKS, tier, point.line.recipe):
            made[row] = Point(Line(name, point.line.steps), point.sampler, point.guided)
    return {row: made[row] for row in SHOWN if row in made}


def pipelines(tier: str) -> dict[str, Any]:
    """Text to image with all networks of the table, by recipe."""
    return networks.pipelines(
        [point.line.recipe for point in points(tier).values()] + [line.recipe for line in lines(tier).values()]
    )


def trace(
    pipelines: Mapping[str, Any], scored: Evaluation, *, scales: Sequence[float], seed: int, tier: str = "quick"
) -> dict[str, Curve]:
    """All curves that are compared; arguments as for `curves.trace`, with pipelines by recipe."""
    compared = {row for panel in panels(tier).values() for row in panel}
    return {
        row: curves.trace(line, pipelines[line.recipe], scored, scales=scales, seed=seed)
        for row, line in lines(tier).items()
        if row in compared
    }


def measure(
    pipelines: Mapping[str, Any],
    traced: Mapping[str, Curve],
    scored: Evaluation,
    *,
    guidance: float,
    seed: int,
    tier: str = "quick",
    same: bool = True,
) -> dict[str, Any]:
    """The rows of Table 2 at one guidance scale, from the same noise: points of curves, and other samplers.

    Args:
        pipelines: by recipe.
        traced: from `trace`.
        scored: the captions, and what scores.
        guidance: w; where curves' points are taken, one of their scales.
        seed: of the noise.
        tier: whose networks.
        same: the curves are of the same captions, so that their points are taken.

    Raises:
        BadInput: w is no scale of the curves.
    """
    done: dict[str, Any] = {}
    for row, point in points(tier).items():
        curve = traced.get(OF_CURVES.get(row, row)) if same and row not in POINTS else None
        if curve is not None:
            done[row] = curve.at(guidance)
            continue
        w = guidance if point.guided else 1.0
        done[row] = curves.point(
            point.line, pipelines[point.line.recipe], scored, guidance=w, sampler=point.sampler, seed=seed
        )
    return done


def rows(
    measured: Mapping[str, Any],
    traced: Mapping[str, Curve],
    levels: Mapping[str, Levels],
    of_curves: Evaluation,
    of_rows: Evaluation,
    tier: str = "quick",
) -> list[Row]:
    """All cells of the table that can be measured at this tier.

    Args:
        measured: from `measure`.
        traced: from `trace`.
        levels: of the curves.
        of_curves, of_rows: what scored the curves, and the rows of Table 2.
        tier: whose networks.
    """
    cells: list[Row] = []
    n = len(of_rows.captions)
    drawn = curves.counts(n, of_rows.resamples)
    column = of_rows.column
    fid = {row: of_rows.distances(found, drawn) for row, found in measured.items()}
    for row, found in measured.items():
        told = f"{found.how}; {n} {of_rows.of}; {of_rows.words}; {scenes.SPREAD}"
        cells.append(Row.measured(row, column("fid_shapes"), curves.interval(fid[row], n), f"{of_rows.to}; {told}"))
        if row in OTHERS and OURS in fid:
            share = curves.interval(fid[row] / fid[OURS], n)
            cells.append(Row.measured(row, column("fid_shapes_ratio"), share, f"over that of row {OURS}; {told}"))
        cells.append(Row.measured(row, column("clip_shapes"), clip_score(found.similarity), f"mean cosine; {told}"))
        cells += of_rows.accuracy(row, found, told)
        steps = points(tier)[row].line.steps
        cells.append(Row(row, "steps", steps, found.how))
    for panel in panels(tier).values():
        cells += curves.rows({row: levels[row] for row in panel}, of_curves, AGAINST)
    cells += single_points(traced, levels, of_curves)
    for row in (row for row in SHOWN if row not in measured):
        reason = networks.no_recipe(tier)
        cells.append(Row.absent(row, column("fid_shapes"), reason))
    reason = (
        "needs a base model with another text encoder, trained to teach: mdrepro train has no recipe of one; "
        "see mdrepro/training/recipes/students.py"
    )
    cells.append(Row.absent("teacher-sd2", of_curves.column(curves.BEST_FID), reason))
    return cells


def single_points(traced: Mapping[str, Curve], levels: Mapping[str, Levels], scored: Evaluation) -> list[Row]:
    """The paper's points of Fig. 4 left; on scenes there are none to set beside them."""
    cells: list[Row] = []
    if scored.column("fid_shapes") == "fid_shapes":
        return cells
    known = ledger.find("snapfusion-step-distillation").rows
    for row in (row for row in FIG4 if row in traced):
        for place, (scale, found) in enumerate(zip(traced[row].scales, traced[row].points, strict=True)):
            name, one = f"{FIG4[row]}-{scale:.1f}", levels[row]
            if name in known and round(scale, 1) == scale:
                told = f"{found.how}; {one.n} {scored.of}; {scored.words}; {scenes.SPREAD}"
                fid = curves.interval(one.fid[:, place], one.n)
                cells.append(Row.measured(name, "fid", fid, f"{scored.to}; {told}"))
                cells.append(Row.measured(name, "clip", clip_score(found.similarity), f"mean cosine; {told}"))
    return cells


def curves_figure(levels: Mapping[str, Levels], tier: str = "quick", of: str = "[shapes]") -> "Figure":
    """The curves of each panel, side by side; ``of``: what follows the scores' names."""
    shown = panels(tier)
    with plotting.figure(1, len(shown), size=(4.2 * len(shown), 3.6)) as (figure, axes):
        for axis, (title, panel) in zip(axes, shown.items(), strict=True):
            curves.draw(axis, {row: levels[row] for row in panel}, title, of)
    return figure
