"""Table ``snapfusion-evolution``: what robust training bears, what Algorithm 1 makes of a network; rows and figures."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from mdrepro.core import plotting
from mdrepro.evaluation import estimators, networks
from mdrepro.evaluation.experiment import Experiment, no_recipe
from mdrepro.evaluation.protocol import Evaluation, Replicas, Scored
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.cost.block_latency import LatencyTable
from mdrepro.models.snapfusion.blocks import KINDS
from mdrepro.papers import ledger
from mdrepro.training.evolution.action_log import LATENCY, Round, read_log
from mdrepro.training.runs.store import Run

ROBUST, EVOLVED = "robust", "evolved-untrained"
WITHOUT_ROBUST = "distance_shapes_minus_without_robust"
"""Column whose controls came about in the same way without robust training."""


def run_of(experiment: Experiment, row: str) -> Run:
    """The run of a row's network."""
    return experiment.runs[experiment.setups[row].recipe]


def logs(experiment: Experiment) -> dict[str, list[Round]]:
    """The evolutions' action logs, by title."""
    rows = {"with robust training": EVOLVED, "without": experiment.controls[f"{EVOLVED}/{WITHOUT_ROBUST}"]}
    found = {title: run_of(experiment, row) for title, row in rows.items() if row in experiment.setups}
    return {title: read_log(run.folder) for title, run in found.items()}


def rows(experiment: Experiment, measured: Mapping[str, Replicas[Scored]], scored: Evaluation[Scored]) -> list[Row]:
    """Quality of every row's images and its difference from others', cost, latency, and how it was trained robustly."""
    cells = estimators.rows(ledger.find(experiment.table), measured, scored)
    lacking = [other for other in experiment.controls.values() if other not in experiment.setups]
    cells += [Row.absent(other, scored.column("fid_shapes"), no_recipe(experiment.tier)) for other in lacking]
    return cells + costs(experiment) + settings(run_of(experiment, ROBUST), run_of(experiment, EVOLVED))


def costs(experiment: Experiment) -> list[Row]:
    """Cost of each row's network, and its latency by the table that the evolution rests on."""
    cells, evolved = [], run_of(experiment, EVOLVED)
    table = LatencyTable.load(evolved.folder / LATENCY)
    for row, setup in experiment.setups.items():
        pipeline = experiment.pipeline(row)
        counted = f"{setup.network}; one evaluation, batch 1; torch's dispatcher counter, attention products included"
        timed = (
            f"{setup.network}; batch {table.batch}, {table.host.threads} thread(s) of {table.host.machine}; sum of the "
            f"latency table of {evolved.recipe.name}, medians of {table.whole.runs} runs"
        )
        cells.append(Row(row, "macs", networks.denoiser_gmacs(pipeline), counted))
        cells.append(Row(row, "latency_ms", table.total(pipeline.unet.layout), timed))
    return cells


def settings(robust: Run, evolved: Run) -> list[Row]:
    """How it was trained robustly, and on what an action was evaluated."""
    protocol = f"{robust.recipe.name}: a step leaves out each block with this probability"
    samples = "scenes of the validation split" if evolved.recipe.tier == "quick" else "held-out samples"
    loss = f"{evolved.recipe.name}: {samples}; the mean loss stands for the CLIP score"
    return [
        Row("robust-recipe", "skip_probability", robust.recipe.options["skip_probability"], protocol),
        Row("robust-recipe", "iterations", robust.recipe.loop.steps, protocol),
        Row("action", "captions", evolved.recipe.options["validation"], loss),
    ]


def log_table(log: Sequence[Round]) -> pd.DataFrame:
    """The action log as a data frame, one line per round."""
    lines = [
        {
            "round": entry.round,
            "actions": "; ".join(entry.actions) or "none",
            "latency (ms)": f"{entry.latency_before_ms:.1f} → {entry.latency_after_ms:.1f}",
            "target (ms)": round(entry.target_ms, 1),
            "loss": f"{-entry.quality_before:.4f} → {-entry.quality_after:.4f}",
            "blocks": sum(entry.blocks.values()),
        }
        for entry in log
    ]
    return pd.DataFrame(lines).set_index("round")


def log_figure(logs: Mapping[str, Sequence[Round]]) -> Figure:
    """Every block's score in every round, and its actions: − removed, + copied; logs by title, side by side."""
    names = _ordered({c.block for log in logs.values() for entry in log for c in entry.candidates})
    scores = [c.score for log in logs.values() for entry in log for c in entry.candidates if c.score is not None]
    linear = sorted(map(abs, scores))[len(scores) // 2] or 1e-9
    bound = max(map(abs, scores))
    norm = SymLogNorm(linear, vmin=-bound, vmax=bound, base=10)
    widest = max(map(len, logs.values()))
    size = (2.6 + (1.2 + 0.55 * widest) * len(logs), 1.6 + 0.23 * len(names))
    with plotting.figure(1, len(logs), size=size, grid="none", sharey=True) as (drawn, axes):
        for axis, (title, log) in zip(axes, logs.items(), strict=True):
            shown = _scores(axis, names, log, norm)
            plotting.title(axis, title)
            axis.set_xticks(range(len(log)), [str(entry.round) for entry in log])
            axis.set_xlabel("round")
            axis.set_yticks(range(len(names)), names, fontsize=7.5)
            axis.spines[:].set_visible(False)
        bar = drawn.colorbar(shown, ax=axes, shrink=0.6)
        bar.set_label("score: rise of the loss without the block, a millisecond saved")
        bar.ax.yaxis.set_major_locator(FixedLocator(_ticks(linear, bound)))
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return drawn


def _ticks(linear: float, bound: float) -> list[float]:
    """Zero and at most three powers of ten on each side, none near zero, where the scale is linear."""
    powers = [10.0**power for power in range(math.floor(math.log10(linear)), math.floor(math.log10(bound)) + 1)]
    outside = [power for power in powers if power > linear] or [bound]
    shown = outside[:: -math.ceil(len(outside) / 3)]
    return sorted([*(-power for power in shown), 0.0, *shown])


def _scores(axis: Axes, names: Sequence[str], log: Sequence[Round], norm: Normalize) -> AxesImage:
    """One evolution as an image of scores (blocks x rounds) with its actions."""
    grid = np.full((len(names), len(log)), np.nan)
    for column, entry in enumerate(log):
        for candidate in entry.candidates:
            if candidate.score is not None:
                grid[names.index(candidate.block), column] = candidate.score
        for kind, _, name in (action.partition(" ") for action in entry.actions):
            if name in names:
                sign = {"remove": "−", "duplicate": "+"}[kind]
                mark = axis.text(column, names.index(name), sign, ha="center", va="center", fontsize=11, weight="bold")
                mark.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    return axis.imshow(grid, aspect="auto", cmap="RdBu_r", norm=norm, interpolation="nearest")


def _ordered(blocks: set[str]) -> list[str]:
    """Names in the order of computation: down, mid, up; the ResNet of an index before its cross-attention."""

    def order(name: str) -> tuple[str, int, int]:
        stage, kind, index = name.split()
        return stage, int(index), KINDS.index(kind)

    return sorted(blocks, key=order)
