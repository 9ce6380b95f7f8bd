"""Figures of table ``mobilediffusion-vae-reconstruction``: training, reconstructions, quality against size."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from torch import Tensor

from mdrepro.core import plotting
from mdrepro.core.console import MINUS
from mdrepro.metrics import jackknife
from mdrepro.metrics.image import reconstruction
from mdrepro.reproduce.tables.vae_networks import Network, in_turn
from mdrepro.reproduce.tables.vae_reconstruction import GAINS, Reconstruction
from mdrepro.training.recipes.photos import PERCEPTUAL
from mdrepro.training.runs import store

COLOURS = {"sd": plotting.GREY, "ours": plotting.BLUE, "ours-lite": plotting.ORANGE}
"""By row; of rows that end in "-perceptual", those of the row without."""
METRICS = {"psnr": ("PSNR", " dB", 2, "higher"), "lpips_alex": ("LPIPS (alex)", "", 3, "lower")}
"""By column: its name, unit, decimals, and which values are better."""
ZOOM = (96, 48)
"""Width and height of the enlarged part, px."""


def loss_figure(networks: Mapping[str, Network]) -> Figure | None:
    """Training error of each autoencoder over all of its runs that are on this machine; None where none is trained.

    Rows with LPIPS and a patch-GAN are left out: their error is absolute, not squared.
    """
    runs = {row: network.run for row, network in networks.items() if network.run and not row.endswith(PERCEPTUAL)}
    if not runs:
        return None
    with plotting.figure(size=(6, 3)) as (figure, (axis,)):
        for row, run in runs.items():
            points, first = [], 0
            for recipe in in_turn(run.recipe):
                part = run if recipe is run.recipe else store.find(recipe)
                for point in part.record["curve"] if part else ():
                    points.append((first + point["step"], point[f"{recipe.kind}/reconstruction"]))
                first += recipe.loop.steps
            steps, losses = zip(*points, strict=True)
            window = min(10, len(losses))
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            axis.plot(steps[window - 1 :], smooth, color=_colour(row), label=networks[row].name)
        axis.set(xlabel="step", ylabel="reconstruction error", yscale="log")
        axis.legend(frameon=False, fontsize=7)
    return figure


def reconstructions_figure(found: Reconstruction) -> Figure:
    """Originals beside reconstructions, and below each the part with the most contrast, enlarged.

    Of each picture the tile with the most contrast is shown, with its own PSNR. Of the rows with LPIPS and a patch-GAN
    one is shown, that of the 8-channel autoencoder.
    """
    count = len(found.originals)
    shown = [row for row in found.measured if row.removesuffix(PERCEPTUAL) in (row, "ours")]
    columns = ["original", *shown]
    heights, width = [1, ZOOM[1] / ZOOM[0]] * count, 3.0 * len(columns)
    size = (width, width / len(columns) * (sum(heights) + 0.24 * count))
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0.005)
    figures = plotting.figure(2 * count, len(columns), size=size, grid="none", layout=layout, height_ratios=heights)
    with figures as (figure, axes):
        for number, tiles in enumerate(found.originals):
            tile = int(tiles.double().var(dim=(1, 2, 3)).argmax())
            left, top = _busiest(tiles[tile])
            for place, column in enumerate(columns):
                images = tiles if column == "original" else found.measured[column].images[number]
                image = images[tile].permute(1, 2, 0).numpy()
                whole = axes[2 * number * len(columns) + place]
                part = axes[(2 * number + 1) * len(columns) + place]
                whole.imshow(image, interpolation="lanczos")
                part.imshow(image[top : top + ZOOM[1], left : left + ZOOM[0]], interpolation="nearest")
                if column == "original":
                    whole.add_patch(Rectangle((left, top), *ZOOM, fill=False, color="white", linewidth=1.2))
                    caption = f"original:\n{found.pictures.pictures[number].name}"
                else:
                    decibels = reconstruction.psnr(tiles[tile : tile + 1], images[tile : tile + 1]).item()
                    name = found.measured[column].network.name.replace(", ", "\n", 1)
                    caption = f"{name}, {decibels:.1f} dB"
                whole.set_title(caption, fontsize=7.5, color=_colour(column), pad=3)
                for axis in (whole, part):
                    axis.set_axis_off()
    return figure


def quality_figure(found: Reconstruction) -> Figure:
    """PSNR and LPIPS with 95 % intervals by network, and the gains in PSNR scene by scene."""
    columns = ("psnr",) if "lpips_alex" in found.reasons else ("psnr", "lpips_alex")
    panels = len(columns) + 1
    with plotting.figure(1, panels, size=(1.5 + 4.75 * panels, 1.4 + 0.42 * len(found.measured))) as (figure, axes):
        for axis, column in zip(axes, columns, strict=False):
            _by_network(axis, found, column)
        right = axes[-1]
        for place, (row, other) in enumerate(GAINS):
            first, second = (found.measured[each].clusters("psnr") for each in (row, other))
            each = [float(np.mean(a - b)) for a, b in zip(first, second, strict=True)]
            gain, colour = jackknife.paired_interval(first, second), _colour(row)
            right.scatter(each, [place + 0.16] * len(each), s=22, color=colour, alpha=0.45, linewidth=0)
            measures = gain.value, gain.low, gain.high
            plotting.estimate(right, place - 0.08, measures, colour=colour, along="x", marker="D")
            plotting.annotate(
                right, f"{gain.value:+.2f} dB".replace("-", MINUS), (gain.value, place - 0.08), (0, 7), color=colour
            )
        right.margins(x=0.15)  # the label of the leftmost gain stays off the axis
        right.axvline(0, color="black", linewidth=0.8)
        names = {row: one.network.name.partition(", ")[0] for row, one in found.measured.items()}
        names["ours-lite"] += ", lite" if names["ours-lite"] == names["ours"] else ""
        labels = [f"{names[row]} − {names[other]}" for row, other in GAINS]
        right.set_yticks(range(len(GAINS)), labels=labels)
        right.set_ylim(len(GAINS) - 0.5, -0.6)
        right.set_xlabel(f"dB; {len(first)} scenes (dots), mean, 95 %")
        plotting.title(right, "PSNR gained on the same tiles")
    return figure


def _by_network(axis: Axes, found: Reconstruction, column: str) -> None:
    name, unit, digits, better = METRICS[column]
    for place, (row, one) in enumerate(found.measured.items()):
        mean, colour = jackknife.cluster_interval(one.clusters(column)), _colour(row)
        hollow = row.endswith(PERCEPTUAL)
        plotting.estimate(axis, place, (mean.value, mean.low, mean.high), colour=colour, along="x", hollow=hollow)
        plotting.annotate(axis, f"{mean.value:.{digits}f}{unit}", (mean.value, place), (0, 7), color=colour)
    shown = [one.network.name for one in found.measured.values()] if column == "psnr" else []
    axis.set_yticks(range(len(found.measured)) if shown else [], labels=shown)
    axis.set_ylim(len(found.measured) - 0.5, -0.6)
    axis.set_xlabel(f"{'dB; ' if unit else ''}mean over scenes, 95 %")
    plotting.title(axis, f"{name}: {better} is better")


def _colour(row: str) -> str:
    return COLOURS.get(row.removesuffix(PERCEPTUAL), "black")


def _busiest(image: Tensor) -> tuple[int, int]:
    """Left and top of the ``ZOOM`` window with the greatest variance, on a grid of 16 px; image (3, h, w)."""
    width, height = ZOOM
    windows = image.double().mean(dim=0).unfold(0, height, 16).unfold(1, width, 16)
    best = int(windows.var(dim=(2, 3)).argmax())
    return best % windows.shape[1] * 16, best // windows.shape[1] * 16
