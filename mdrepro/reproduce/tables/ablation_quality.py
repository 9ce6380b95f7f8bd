"""Table ``mobilediffusion-ablation-quality``: small networks that differ in one design rule, quality beside cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from mdrepro.core import plotting
from mdrepro.evaluation import estimators, networks
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.protocol import Evaluation, Replicas, Scored
from mdrepro.evaluation.rows import Row
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.papers import ledger

BASE = "base"
TITLES: Mapping[str, str] = {
    "base": "base",
    "t1": "T1 transformers to the middle",
    "t1-narrow-input": "T1, input narrowed too",
    "t2": "T2 no self-attention outside",
    "t2-no-cross-attention": "no attention outside",
    "t3": "T3 key = value",
    "t4": "T4 swish",
    "t5": "T5 ReLU attention",
    "t6": "T6 feed-forward 3",
    "c1": "C1 separable",
    "c2": "C2 one ResNet a level",
    "base-tuned": "base, trained on",
}
"""Titles of the rows in the figure."""
NOT_ADOPTED = ("t1-narrow-input", "t2-no-cross-attention")
LEFT_OUT: Mapping[str, str] = {
    "c1-large-kernels": "nothing to act on at this size: the levels with separable convolutions have 4 x 4 and "
    "2 x 2 latent pixels, and a kernel of 7 or 9 covers all of them"
}
SHOWN = (
    ("distance_shapes", "paired distance[shapes], lower is better"),
    ("clip_shapes", "CLIP score[shapes], higher is better"),
)


@dataclass(frozen=True)
class Size:
    """Parameters, 10^6, and multiply-accumulates of one evaluation, 10^9."""

    params: float
    gmacs: float


def sizes(pipelines: Mapping[str, MobileDiffusionPipeline]) -> dict[str, Size]:
    """Size and cost of each row's denoiser; the pipelines by row."""
    return {row: Size(one.unet.num_parameters() / 1e6, networks.denoiser_gmacs(one)) for row, one in pipelines.items()}


def rows(
    experiment: Experiment,
    measured: Mapping[str, Replicas[Scored]],
    sized: Mapping[str, Size],
    scored: Evaluation[Scored],
) -> list[Row]:
    """Quality of each row's images, its difference from the base's and its own control's, cost, and fine-tuning."""
    cells = estimators.rows(ledger.find(experiment.table), measured, scored)
    for row, size in sized.items():
        denoiser = f"denoiser of {experiment.setups[row].recipe}"
        how = "one evaluation, batch 1, 8 x 8 latent; torch's dispatcher counter, attention products included"
        cells += [Row(row, "params", size.params, denoiser), Row(row, "macs", size.gmacs, f"{denoiser}; {how}")]
    base, *tuned = (experiment.runs[experiment.setups[row].recipe].recipe for row in (BASE, "t5", "base-tuned"))
    for row, recipe in zip(("t5", "base-tuned"), tuned, strict=True):
        protocol = f"{recipe.name}, after {base.loop.steps} of {base.name}"
        cells.append(Row(row, "finetuning_iterations", recipe.loop.steps, protocol))
    return cells + [Row.absent(row, "fid_shapes", reason) for row, reason in LEFT_OUT.items()]


def figure(cells: Sequence[Row]) -> Figure:
    """Quality against cost: FID[shapes] and CLIP score[shapes] over multiply-accumulates, with intervals."""
    cost = {cell.row: 1e3 * (cell.value or 0.0) for cell in cells if cell.column == "macs"}
    left, right = min(cost.values()), max(cost.values())
    edge = right + 0.06 * (right - left)
    with plotting.figure(1, 2, size=(12, 5.2)) as (drawn, axes):
        for axis, (column, title) in zip(axes, SHOWN, strict=True):
            points = {cell.row: cell for cell in cells if cell.column == column and cell.row in cost}
            ordered = sorted(points.values(), key=lambda cell: cell.value or 0.0)
            ends = [end for cell in ordered for end in (cell.ci_low, cell.ci_high) if end is not None]
            fewer = estimators.fewer_seeds({cell.row: len(cell.by_seed) for cell in ordered})
            gap = (max(ends) - min(ends)) / 16
            for cell, label in zip(ordered, plotting.apart([cell.value or 0.0 for cell in ordered], gap), strict=True):
                row, x = cell.row, cost[cell.row]
                colour = plotting.BLUE if row == BASE else plotting.ORANGE if row in NOT_ADOPTED else "0.35"
                spread, hollow = (cell.value, cell.ci_low, cell.ci_high), bool(fewer[row])
                plotting.estimate(axis, x, spread, colour=colour, hollow=hollow)
                line = {"arrowstyle": "-", "color": "0.75", "lw": 0.6, "relpos": (0, 0.5), "shrinkA": 2}
                point = (x, cell.value or 0.0)
                name = TITLES[row] + fewer[row]
                axis.annotate(name, point, (edge, label), color=colour, va="center", arrowprops=line)
            axis.axhline(points[BASE].value or 0.0, color=plotting.BLUE, lw=0.8, alpha=0.4)
            axis.set_xlim(left - 0.06 * (right - left), edge + 0.75 * (right - left))
            axis.set_xticks([tick for tick in axis.get_xticks() if left <= tick <= right])
            axis.set(xlabel="multiply-accumulates of one evaluation, $10^6$", ylabel=title)
    return drawn
