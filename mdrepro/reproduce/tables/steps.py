"""Table ``mobilediffusion-steps``: the same prompts and noise at 50, 8 and 1 steps; rows and figures."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation import estimators, networks
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.protocol import Evaluation, Replicas, Scored
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.reproduce.formatting import row_titles


def rows(experiment: Experiment, measured: Mapping[str, Replicas[Scored]], scored: Evaluation[Scored]) -> list[Row]:
    """Quality with intervals, differences and ratios of rows on the same prompts and noise, time and compute."""
    return estimators.rows(ledger.find(experiment.table), measured, scored) + compute(experiment)


def compute(experiment: Experiment) -> list[Row]:
    """Multiply-accumulates of the denoiser for one image of each row: evaluations times those of one."""
    cells = []
    for row, setup in experiment.setups.items():
        branches, each = 1 if setup.guidance == 1 else 2, networks.denoiser_gmacs(experiment.pipeline(row))
        protocol = (
            f"{setup.recipe}: {setup.steps} steps x {branches} branches x {each:.4g} GMAC, counted at the dispatcher; "
            "text encoder and decoder left out"
        )
        cells.append(Row(row, "gmacs_per_image", setup.steps * branches * each, protocol))
    return cells


def quality_figure(cells: Sequence[Row]) -> Figure:
    """Attribute accuracy and paired distance of each row, or CLIP score and FID, with intervals."""
    table = ledger.find("mobilediffusion-steps")
    on_scenes = any(row.column == "distance_shapes" for row in cells)
    panels = ("attribute_accuracy", "distance_shapes") if on_scenes else ("clip", "fid")
    names, seeds = row_titles(table), {row.row: len(row.by_seed) for row in cells if row.column == panels[1]}
    fewer = estimators.fewer_seeds(seeds)
    with plotting.figure(1, 2, size=(11, 4.6), sharey=True) as (figure, axes):
        measured = [row for row in cells if row.column in panels and row.value is not None]
        lines = {name: line for line, name in enumerate(dict.fromkeys(row.row for row in measured))}
        for axis, column in zip(axes, panels, strict=True):
            for row in (row for row in measured if row.column == column):
                colour = plotting.BLUE if row.row in ("50", "8", "1") else plotting.GREY
                spread, hollow = (row.value, row.ci_low, row.ci_high), bool(fewer.get(row.row))
                plotting.estimate(axis, lines[row.row], spread, colour=colour, along="x", hollow=hollow)
            spec = table.columns[column]
            plotting.title(axis, f"{spec.title}: {spec.better} is better")
        texts = [plotting.wrapped(names[row] + fewer.get(row, ""), 40) for row in lines]
        axes[0].set_yticks(list(lines.values()), texts)
        axes[0].invert_yaxis()
        axes[1].set_xscale("log")
        plotting.plain_log(axes[1].xaxis)
    return figure
