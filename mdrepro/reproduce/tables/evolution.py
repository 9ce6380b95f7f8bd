"""Table ``snapfusion-evolution``: what robust training bears, what Algorithm 1 makes of a network; rows and figures."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mdrepro.core import plotting
from mdrepro.evaluation import networks, paired, scenes
from mdrepro.evaluation.networks import Names
from mdrepro.evaluation.protocol import Evaluation
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.cost.block_latency import LatencyTable
from mdrepro.models import text
from mdrepro.models.snapfusion.blocks import KINDS, Layout
from mdrepro.training.evolution.action_log import LATENCY, Round, read_log
from mdrepro.training.runs.store import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STANDARD, ROBUST = "shapes-sd", "shapes-robust"
EVOLVED, EVOLVED_STANDARD = "shapes-evolved", "shapes-evolved-standard"
SNAP = "shapes-snap"


def nothing(layout: Layout) -> list[str]:
    """No block."""
    return []


def down_cross_attention(layout: Layout) -> list[str]:
    """All cross-attention blocks of the down stages."""
    return [b.name for b in layout.blocks() if b.stage.startswith("down") and b.kind == "cross-attention"]


def last_cross_attention(layout: Layout) -> list[str]:
    """The last cross-attention block of each stage that has several."""
    return _last(layout, "cross-attention")


def last_resnets(layout: Layout) -> list[str]:
    """The ResNets before the blocks of `last_cross_attention`: as many, in the same places."""
    return _last(layout, "resnet")


def _last(layout: Layout, kind: str) -> list[str]:
    places = [stage[-1] for stage in layout.stages.values() if len(stage) > 1]
    return [b.name for place in places if {b.kind for b in place} == set(KINDS) for b in place if b.kind == kind]


REMOVALS: Mapping[Callable[[Layout], list[str]], str] = MappingProxyType(
    {
        down_cross_attention: "all cross-attention blocks of the down stages",
        last_cross_attention: "the last cross-attention block of each stage that has several",
        last_resnets: "the ResNet before the last cross-attention block of each stage that has several",
    }
)


@dataclass(frozen=True)
class Variant:
    """A row's network: a trained one, and the blocks that are removed from it before it is run."""

    recipe: str
    removed: Callable[[Layout], list[str]] = nothing

    @property
    def words(self) -> str:
        """What it is."""
        return self.recipe + (f", removed: {REMOVALS[self.removed]}" if self.removed in REMOVALS else "")


VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "standard": Variant(STANDARD),
        "standard-without-down-cross-attention": Variant(STANDARD, down_cross_attention),
        "robust": Variant(ROBUST),
        "robust-without-down-cross-attention": Variant(ROBUST, down_cross_attention),
        "robust-without-cross-attention": Variant(ROBUST, last_cross_attention),
        "robust-without-resnets": Variant(ROBUST, last_resnets),
        "evolved-untrained": Variant(EVOLVED),
        "evolved": Variant(SNAP),
        "evolved-without-robust-untrained": Variant(EVOLVED_STANDARD),
        "evolved-without-robust": Variant("shapes-snap-standard"),
    }
)
WITHOUT_ROBUST: Mapping[str, str] = MappingProxyType(
    {
        "robust-without-down-cross-attention": "standard-without-down-cross-attention",
        "evolved-untrained": "evolved-without-robust-untrained",
        "evolved": "evolved-without-robust",
    }
)
"""Rows of robust training, and those that came about without it in the same way."""
RECIPES = (*scenes.SCORERS, *dict.fromkeys(variant.recipe for variant in VARIANTS.values()))


NETWORKS: Mapping[str, Names] = MappingProxyType(
    {
        tier: {STANDARD: f"{name}-sd", ROBUST: f"{name}-robust", EVOLVED: f"{name}-evolved", SNAP: f"{name}-snap"}
        for tier, name in (("proxy", "proxy"), ("paper", "sf"))
    }
)
"""Nothing there came about without robust training."""


def variants(tier: str = "quick") -> dict[str, Variant]:
    """Each row's network, as far as the tier has it."""
    chosen = {row: (networks.at(NETWORKS, tier, variant.recipe), variant) for row, variant in VARIANTS.items()}
    return {row: Variant(name, variant.removed) for row, (name, variant) in chosen.items() if name}


def recipe(name: str, tier: str) -> str:
    """A tier's recipe in the place of `STANDARD`, `ROBUST` or `EVOLVED`."""
    found = networks.at(NETWORKS, tier, name)
    assert found is not None
    return found


def logs(trained: Mapping[str, Run], tier: str = "quick") -> dict[str, list[Round]]:
    """The evolutions' action logs, by title."""
    titles = {"with robust training": EVOLVED, "without": EVOLVED_STANDARD}
    there = {title: networks.at(NETWORKS, tier, name) for title, name in titles.items()}
    return {title: read_log(trained[name].folder) for title, name in there.items() if name}


def pipelines(tier: str = "quick") -> dict[str, Any]:
    """Text to image with each row's network, blocks removed as `EvolvableUNet.remove` does."""
    made = {}
    for row, variant in variants(tier).items():
        made[row] = networks.pipelines([variant.recipe])[variant.recipe]
        unet = made[row].unet
        unet.replay(f"remove {name}" for name in variant.removed(unet.layout))
    return made


def words(tier: str = "quick") -> dict[str, str]:
    """What each row's network is."""
    return {row: variant.words for row, variant in variants(tier).items()}


def latencies(run: Run) -> LatencyTable:
    """The latency table that an evolution rests on."""
    return LatencyTable.load(run.folder / LATENCY)


def rows(
    measured: Mapping[str, Any],
    made_by: Mapping[str, Any],
    trained: Mapping[str, Run],
    scored: Evaluation,
    tier: str = "quick",
) -> list[Row]:
    """Quality of every row and its distance from others', cost, latency, and how it was trained robustly.

    Args:
        measured: from `alike.measure`.
        made_by: pipelines by row.
        trained: runs by recipe.
        scored: what scored.
        tier: whose networks.
    """
    cells = paired.rows(measured, scored, against="standard")
    known = variants(tier)
    for row, other in WITHOUT_ROBUST.items():
        if row in known and other in known:
            cells.append(paired.distance(row, "fid_shapes_minus_without_robust", measured, other, scored))
    table = latencies(trained[recipe(EVOLVED, tier)])
    told = words(tier)
    for row, pipeline in made_by.items():
        tokens = text.encode(pipeline.tokenizer, pipeline.text_encoder, [""]).shape[1]
        gmacs, ms = scenes.evaluation_gmacs(pipeline.unet, tokens), table.total(pipeline.unet.layout)
        counted = f"{told[row]}; one evaluation, batch 1; torch's dispatcher counter, attention products included"
        how = (
            f"{told[row]}; batch {table.batch}, {table.host.threads} thread(s) of {table.host.machine}; sum of the "
            f"latency table of {recipe(EVOLVED, tier)}, medians of {table.whole.runs} runs"
        )
        cells += [
            Row(row, "macs", gmacs, counted),
            Row(row, "latency_ms", ms, how),
        ]
    for row in (row for row in VARIANTS if row not in known):
        column, reason = scored.column("fid_shapes"), networks.no_recipe(tier)
        cells.append(Row.absent(row, column, reason))
    return cells + settings(trained[recipe(ROBUST, tier)], trained[recipe(EVOLVED, tier)])


def settings(robust: Run, evolved: Run) -> list[Row]:
    """How it was trained robustly, and on what an action was evaluated."""
    share, steps = robust.recipe.options["skip_probability"], robust.recipe.loop.steps
    captions = evolved.recipe.options["validation"]
    how = f"{robust.recipe.name}: a step leaves out each block with this probability"
    of = "scenes of the validation split" if evolved.recipe.tier == "quick" else "held-out samples"
    loss = f"{evolved.recipe.name}: {of}; the mean loss stands for the CLIP score"
    return [
        Row("robust-recipe", "skip_probability", share, how),
        Row("robust-recipe", "iterations", steps, how),
        Row("action", "captions", captions, loss),
    ]


def log_table(log: Sequence[Round]) -> Any:
    """The action log as a data frame, a line a round."""
    import pandas as pd

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


def log_figure(logs: Mapping[str, Sequence[Round]]) -> "Figure":
    """Every block's score in every round, and what was done: − removed, + copied.

    Args:
        logs: action logs by title, side by side.
    """
    from matplotlib.colors import SymLogNorm
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

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


def _scores(axis: "Axes", names: Sequence[str], log: Sequence[Round], norm: Any) -> Any:
    """One evolution as an image of scores (blocks x rounds) with its actions."""
    import numpy as np
    from matplotlib.patheffects import withStroke

    grid = np.full((len(names), len(log)), np.nan)
    for place, entry in enumerate(log):
        for candidate in entry.candidates:
            if candidate.score is not None:
                grid[names.index(candidate.block), place] = candidate.score
        for sign, line in done(entry, names):
            mark = axis.text(place, line, sign, ha="center", va="center", fontsize=11, fontweight="bold")
            mark.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    return axis.imshow(grid, aspect="auto", cmap="RdBu_r", norm=norm, interpolation="nearest")


def done(entry: Round, names: Sequence[str]) -> list[tuple[str, int]]:
    """What a round did to the blocks of ``names``: its sign and their place, each action one."""
    signs = {"remove": "−", "duplicate": "+"}
    acted = [action.split(" ", 1) for action in entry.actions]
    return [(signs[verb], names.index(name)) for verb, name in acted if name in names]


def _ordered(blocks: set[str]) -> list[str]:
    """Names in the order of computation: down, middle, up; the ResNet of an index before its cross-attention."""
    sides = {"down": 0, "mid": 1, "up": 2}

    def place(name: str) -> tuple[int, int, int, int]:
        stage, kind, index = name.split()
        side, _, number = stage.partition("-")
        return sides[side], int(number or 0), int(index), KINDS.index(kind)

    return sorted(blocks, key=place)
