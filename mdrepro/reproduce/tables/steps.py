"""Table ``mobilediffusion-steps``: the same prompts and noise at 50, 8 and 1 steps; rows and figures."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation import estimators, networks
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.protocol import Evaluation, Replicas, Scored
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger


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
    on_scenes = (
        ("attribute_accuracy", "attribute accuracy"),
        ("distance_shapes", "distance to the captions' own renders"),
    )
    on_images = (("clip", "CLIP score"), ("fid", "FID"))
    panels = on_scenes if any(row.column == "distance_shapes" for row in cells) else on_images
    with plotting.figure(1, 2, size=(9, 3.2)) as (figure, axes):
        for axis, (column, title) in zip(axes, panels, strict=True):
            shown = [row for row in cells if row.column == column and row.value is not None]
            for line, row in enumerate(shown):
                colour = plotting.BLUE if row.row in ("50", "8", "1") else plotting.GREY
                plotting.estimate(axis, line, (row.value, row.ci_low, row.ci_high), colour=colour, along="x")
            axis.set_yticks(range(len(shown)), [row.row for row in shown])
            axis.set_xlabel(title)
            axis.invert_yaxis()
        axes[1].set_xscale("log")
        plotting.plain_log(axes[1].xaxis)
    return figure
