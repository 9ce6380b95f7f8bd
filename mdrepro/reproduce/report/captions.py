"""What each figure shows: its caption, and the alternative text for those who do not see it."""

from typing import NamedTuple

from mdrepro.papers.schema import Table


class Caption(NamedTuple):
    """A caption, which says where better is, and a description of the drawing."""

    text: str
    alternative: str


_GRID = Caption(
    "The first test captions' images, one line per row of the table. On drawn scenes an orange frame says that "
    "something is not as in the caption.",
    "Grid of small images: a column per caption, a line per row of the table; frames mark images that miss a detail.",
)
_WORK = Caption(
    "Time of one run against its multiply-accumulates, both logarithmic. Lower is better; the lines are the fastest "
    "matrix product of this machine, a half and a quarter of it.",
    "Scatter plot: milliseconds over multiply-accumulates of each denoiser, decoder and text encoder, with three "
    "rising lines of constant speed.",
)
_IMAGE = Caption(
    "Where the time of one image goes (left), and how long it takes (right, logarithmic; lower is better).",
    "Stacked bars: shares of text encoder, denoiser and image decoder in one image's time, per system; beside them a "
    "dot with the seconds of each.",
)
_CURVES = Caption(
    "Distance over CLIP score, one point per guidance scale; the first and the last scale are named. Better is down "
    "and to the right.",
    "Line plots, one panel per comparison: the curve of each network through its guidance scales, distance on the "
    "vertical and CLIP score on the horizontal axis.",
)
_CAPTIONS = {
    "grid": _GRID,
    "work": _WORK,
    "image": _IMAGE,
    "curves": _CURVES,
    "curve": Caption(
        "FID over CLIP score of the two decoders, one point per guidance scale. Better is down and to the right.",
        "Line plot: two curves, of the original and the half-width decoder, with the guidance scale at each point.",
    ),
    "mobilediffusion-steps-quality": Caption(
        "Attribute accuracy (left, higher is better) and paired distance (right, logarithmic, lower is better) of each "
        "row, with 95 % intervals. Blue: the rows of the paper's table.",
        "Two dot plots, a line per row of the table: accuracy and distance with horizontal intervals.",
    ),
    "mobilediffusion-vae-reconstruction-quality": Caption(
        "PSNR (higher is better) and LPIPS (lower is better) of each autoencoder, named by its decoder's parameters, "
        "and what the 8-channel ones gain over the 4-channel one on the same tiles (right). Hollow: trained on with "
        "LPIPS and a patch-GAN.",
        "Left and middle: a line for each autoencoder, with a point and its interval. Right: gains in dB with "
        "intervals, a small dot per photograph.",
    ),
    "reconstructions": Caption(
        "Held-out tiles and their reconstructions; below each the framed part, enlarged without smoothing.",
        "Grid of photographs: the original and the output of each autoencoder, with enlarged details below.",
    ),
    "mobilediffusion-unet-cost-cost": Caption(
        "Multiply-accumulates against parameters, both logarithmic; lower and further left is cheaper. Red: the two "
        "papers' own networks.",
        "Two scatter plots, of denoisers and of image decoders; every point is named.",
    ),
    "mobilediffusion-ablation-quality-cost": Caption(
        "Quality against the multiply-accumulates of one evaluation, with intervals: distance (lower is better) and "
        "CLIP score (higher is better). Blue: the base. Orange: what the paper did not adopt.",
        "Two scatter plots with a named point per design rule and a line at the base's level.",
    ),
    "ablation": Caption(
        "Change of parameters and of multiply-accumulates by each design rule; further left saves more. Black ticks: "
        "the paper's figures. Grey: not adopted.",
        "Two bar charts, a bar per rule, most of them to the left of zero, with black ticks where the paper gives one.",
    ),
    "blocks": Caption(
        "Blocks, parameters and multiply-accumulates of each stage of Table 3, in SD-1.5 and in two builds of "
        "SnapFusion; shorter is cheaper.",
        "Three bar charts with three bars per stage and kind of block.",
    ),
    "actions": Caption(
        "Every block's score in each round of the evolution (colour), and what was done: − removed, + copied. A "
        "block of low score costs more time than it is worth.",
        "Heat maps, a line per block and a column per round, with signs where a block was removed or copied.",
    ),
}


def caption(table: Table, figure: str) -> Caption:
    """The caption of a table's figure, by its recorded name; of one that is not known, the table's title."""
    name = figure.replace("_", " ").replace("-", " ")
    unknown = Caption(f"{table.title}: {name}.", f"Figure of the table “{table.title}”: {name}.")
    return _CAPTIONS.get(f"{table.id}-{figure}") or _CAPTIONS.get(figure) or unknown
