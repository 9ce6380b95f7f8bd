"""All verdicts and claims of a tier as data frames, and quality against compute against time in one figure.

Everything is read from recorded results: a run of this machine where there is one, else the published one.
"""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.reproduce.report.legend import CLAIM_VERDICTS, GLYPHS, VERDICTS
from mdrepro.reproduce.report.views import RunView, run_view

STEPS = "mobilediffusion-steps"
COLOURS = {
    "holds": "#2e7d4f",
    "by construction": "#8fb8a0",
    "within noise": "#c9a227",
    "bed not sensitive": "#e3d3a0",
    "does not hold": "#b23a2e",
    "unconfirmed": "#7a86b8",
    "not attempted": "#c8ccd2",
}


def runs(tier: str) -> dict[str, RunView]:
    """Every table that has a result at ``tier``, by name. Raises BadInput: an unknown tier, an unreadable result."""
    checked = ledger.check_tier(tier)
    tables = ledger.tables(planned=True)
    return {name: view for name, table in tables.items() if (view := run_view(table, checked))}


def tables(seen: Mapping[str, RunView]) -> pd.DataFrame:
    """One line per table: how many cells have each verdict, where its result comes from, and from which commit."""
    lines = [
        (name, *(view.counts.get(verdict, 0) for verdict in VERDICTS), view.origin, view.short_commit)
        for name, view in seen.items()
    ]
    frame = pd.DataFrame(lines, columns=["table", *VERDICTS, "result", "commit"]).set_index("table")
    return frame.loc[:, [name for name in frame if name not in VERDICTS or frame[name].any()]]


def unmade(seen: Mapping[str, RunView]) -> pd.DataFrame:
    """The tables without a result, with what each would show."""
    lines = [
        (name, table.title, table.notebook or "not written yet")
        for name, table in ledger.tables(planned=True).items()
        if name not in seen
    ]
    return pd.DataFrame(lines, columns=["table", "title", "notebook"]).set_index("table")


def claims(seen: Mapping[str, RunView]) -> pd.DataFrame:
    """One line per claim: paper, statement, verdict, and the inequalities with their numbers and intervals."""
    lines = []
    for name, view in seen.items():
        paper = ledger.paper_of(view.table).id
        for claim, verdict, conditions, _ in view.claims:
            numbers = "; ".join(map(str, conditions))
            lines.append((paper, name, claim.statement, f"{GLYPHS[verdict]} {verdict}", numbers))
    return pd.DataFrame(lines, columns=["paper", "table", "claim", "verdict", "numbers"])


def claims_figure(seen: Mapping[str, RunView]) -> Figure:
    """How many claims of each table hold, do not, or are undecided."""
    verdicts = {name: [one.verdict for one in view.claims] for name, view in seen.items() if view.claims}
    with plotting.figure(size=(9, 0.5 * len(verdicts) + 1.3), grid="x") as (figure, (axis,)):
        left = [0] * len(verdicts)
        for verdict in CLAIM_VERDICTS:
            counts = [values.count(verdict) for values in verdicts.values()]
            bars = axis.barh(list(verdicts), counts, left=left, color=COLOURS[verdict], label=verdict)
            axis.bar_label(bars, [str(count) if count else "" for count in counts], label_type="center", fontsize=9)
            left = [before + count for before, count in zip(left, counts, strict=True)]
        axis.invert_yaxis()
        axis.set_xlabel("claims")
        axis.legend(ncols=len(COLOURS), loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=8)
    return figure


def measured(view: RunView) -> pd.DataFrame:
    """The measured numbers of a table: one line per row."""
    values: dict[str, dict[str, Any]] = {}
    for row in view.result["rows"]:
        if row["value"] is not None:
            values.setdefault(row["row"], {})[row["column"]] = row["value"]
    return pd.DataFrame.from_dict(values, orient="index")


def trade_figure(seen: Mapping[str, RunView]) -> Figure:
    """Quality against GMAC (left) and time (right) of an image, by sampler setup. Raises BadInput without ``STEPS``."""
    if STEPS not in seen:
        raise BadInput(f"{STEPS} has no result at this tier; run: mdrepro reproduce {STEPS}")
    data = measured(seen[STEPS]).dropna(subset=["attribute_accuracy", "seconds_per_image", "gmacs_per_image"])
    panels = {"gmacs_per_image": "denoiser, GMAC per image", "seconds_per_image": "whole image, s on this host"}
    with plotting.figure(1, 2, size=(9.5, 3.6), sharey=True) as (figure, axes):
        for axis, (column, label) in zip(axes, panels.items(), strict=True):
            labels = []
            for row, line in data.iterrows():
                colour = plotting.BLUE if row in ("50", "8", "1") else plotting.GREY
                labels.append((str(row), (line[column], 100 * line["attribute_accuracy"]), colour))
                axis.plot(*labels[-1][1], "o", ms=7.5, mec="white", color=colour)
            axis.set(xscale="log", xlabel=label)
            axis.margins(0.15)
            plotting.plain_log(axis.xaxis)
            plotting.label_points(axis, labels)
        axes[0].set_ylabel("attributes right, %")
    return figure
