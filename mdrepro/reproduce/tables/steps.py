"""Table ``mobilediffusion-steps``: the same prompts and noise at 50, 8 and 1 steps; rows and figures."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation import networks
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.protocol import Evaluation, Scored, caption_count
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.image.statistics import Array

DIFFERENCES = {"8-ddim": "fid_shapes_minus_8_ddim", "8-dpm++": "fid_shapes_minus_8_dpm"}
"""Undistilled rows of 8 steps, and the column of the distilled row's difference to each."""


def eight_steps(experiment: Experiment, scored: Evaluation[Scored], seeds: Sequence[int]) -> dict[str, Array]:
    """Features of the images of the three rows of 8 steps, from several noises: (seeds, captions, width) each."""
    rows = ("8", *DIFFERENCES)
    return {row: np.stack([experiment.features(row, scored, seed=seed) for seed in seeds]) for row in rows}


def rows(measured: Mapping[str, Scored], scored: Evaluation[Scored], eight: Mapping[str, Array]) -> list[Row]:
    """Quality with intervals, differences between rows on the same prompts and noise, and time; see `eight_steps`."""
    cells = []
    for row, images in measured.items():
        protocol = f"{caption_count(images, scored)}; {scored.scoring}"
        cells += scored.rows(row, images)
        if row in ("8", "1"):
            pair, paired = (images, measured["50"]), f"paired with row 50; {protocol}"
            cells += scored.accuracy_difference(row, "attribute_accuracy_minus_50", *pair, paired)
        for other in DIFFERENCES if row == "8" else ():
            before = f"paired with row {other}; {len(eight[other])} noises per caption; whole captions are drawn; "
            cells.append(scored.difference(row, DIFFERENCES[other], eight["8"], eight[other], protocol, before))
    return cells


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
    """Attribute accuracy and FID[shapes] of each row, or CLIP score and FID, with intervals."""
    on_scenes = (("attribute_accuracy", "attribute accuracy"), ("fid_shapes", "FID[shapes]"))
    on_images = (("clip", "CLIP score"), ("fid", "FID"))
    panels = on_scenes if any(row.column == "fid_shapes" for row in cells) else on_images
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
