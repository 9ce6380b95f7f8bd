"""Table ``mobilediffusion-vae-reconstruction``: small autoencoders on held-out photographs, rows and figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from mdrepro.core import plotting
from mdrepro.core.console import Progress
from mdrepro.core.errors import NotAttempted
from mdrepro.data import photos
from mdrepro.evaluation.rows import Row
from mdrepro.metrics import jackknife
from mdrepro.metrics.image import reconstruction
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import store
from mdrepro.training.runs.store import Run

NAMES = {"sd": "SD (4 channels)", "ours": "Ours (8 channels)", "ours-lite": "Ours-Lite"}
COLOURS = {"sd": plotting.GREY, "ours": plotting.BLUE, "ours-lite": plotting.ORANGE}
DEFINITIONS = {
    "psnr": "PSNR of uint8 RGB, range 255",
    "ssim": "SSIM of uint8 RGB, Gaussian window 11, sigma 1.5, population covariance, channels averaged",
    "ms_ssim": "MS-SSIM of uint8 RGB, 5 scales, windows inside the image",
}
GAINS = (("ours", "sd"), ("ours-lite", "sd"), ("ours-lite", "ours"))
SHOWN, ZOOM = 3, (96, 48)
"""Of the figure: photographs at most; width and height of the enlarged part, px."""


@dataclass(frozen=True)
class Measured:
    """One autoencoder on the held-out photographs.

    Args:
        recipe, params: how it was trained; parameters of its decoder.
        images: reconstructions, uint8 (tiles, 3, 256, 256) for each photograph.
        scores: by metric, an array for each photograph with one number per tile.
        definitions, reasons: by metric, what was measured, and why it was not attempted.
    """

    recipe: Recipe
    params: int
    images: list[Tensor]
    scores: dict[str, list[NDArray[np.float64]]]
    definitions: dict[str, str]
    reasons: dict[str, str]


def originals(held_out: Sequence[photos.Photograph]) -> list[Tensor]:
    """Each photograph's non-overlapping centred tiles, uint8 (tiles, 3, 256, 256)."""
    return [photos.tiles(photograph.pixels()) for photograph in held_out]


@torch.inference_mode()
def measure(runs: Mapping[str, Run], tiles: Sequence[Tensor]) -> dict[str, Measured]:
    """Reconstruct every tile (from `originals`) with every row's autoencoder, from the mean of its latent; score it.

    LPIPS is left out, with the reason, where its weights are not here.
    """
    perceptual, reasons = {}, {}
    for net in reconstruction.BACKBONES:
        try:
            perceptual[f"lpips_{net}"] = reconstruction.Lpips(net)
        except NotAttempted as missing:
            reasons[f"lpips_{net}"] = str(missing)
    metrics = {"psnr": reconstruction.psnr, "ssim": reconstruction.ssim, "ms_ssim": reconstruction.ms_ssim}
    definitions = DEFINITIONS | {name: metric.protocol for name, metric in perceptual.items()}
    measured = {}
    with Progress("reconstruction", len(runs) * len(tiles), "photographs") as progress:
        for row, run in runs.items():
            model, images = run.load("vae"), []
            scores: dict[str, list[NDArray[np.float64]]] = {name: [] for name in metrics | perceptual}
            for x in tiles:
                images.append(_reconstructed(model, x))
                for name, metric in (metrics | perceptual).items():
                    scores[name].append(metric(x, images[-1]).numpy())
                progress.advance()
            measured[row] = Measured(run.recipe, vae.decoder_parameters(model), images, scores, definitions, reasons)
    return measured


def rows(measured: Mapping[str, Measured], split: photos.Split) -> list[Row]:
    """Parameters, quality with intervals, and paired gains, for each autoencoder."""
    cells = []
    for row, ours in measured.items():
        training = _training(ours, split)
        exact = f"Decoder of the measured network, without the 1x1 convolution on the latent; {training}"
        cells.append(Row(row, "params", ours.params / 1e6, exact))
        for column in (*DEFINITIONS, "lpips_alex", "lpips_vgg"):
            protocol = f"{_measuring(column, ours, split)}; {training}"
            if reason := ours.reasons.get(column):
                cells.append(Row(row, column, None, protocol, reason=reason))
            else:
                cells.append(Row.measured(row, column, jackknife.cluster_interval(ours.scores[column]), protocol))
    for row, other in GAINS:
        ours, training = measured[row], _training(measured[row], split)
        for column in ("psnr", "ssim"):
            gain = jackknife.paired_interval(ours.scores[column], measured[other].scores[column])
            what = f"{column.upper()} of {row} minus {other} on the same tiles"
            protocol = f"{what}; {_measuring(column, ours, split)}; {training}"
            cells.append(Row.measured(row, f"{column}_gain_over_{other}", gain, protocol))
    return cells


def loss_figure(runs: Mapping[str, Run]) -> Figure:
    """Training error of each autoencoder over all of its runs that are on this machine."""
    with plotting.figure(size=(6, 3)) as (figure, (axis,)):
        for row, run in runs.items():
            points, first = [], 0
            for recipe in _in_turn(run.recipe):
                part = run if recipe is run.recipe else store.find(recipe)
                for point in part.record["curve"] if part else ():
                    points.append((first + point["step"], point[f"{recipe.kind}/reconstruction"]))
                first += recipe.loop.steps
            steps, losses = zip(*points, strict=True)
            window = min(10, len(losses))
            smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
            axis.plot(steps[window - 1 :], smooth, color=COLOURS[row], label=NAMES[row])
        axis.set(xlabel="step", ylabel="reconstruction error", yscale="log")
        axis.legend(frameon=False)
    return figure


def reconstructions_figure(measured: Mapping[str, Measured], split: photos.Split, tiles: Sequence[Tensor]) -> Figure:
    """Originals beside reconstructions, and below each the part with the most contrast, enlarged.

    Of each photograph the tile with the most contrast is shown, with its own PSNR.
    """
    count = min(SHOWN, len(tiles))
    columns = ["original", *measured]
    heights, width = [1, ZOOM[1] / ZOOM[0]] * count, 9.0
    size = (width, width / len(columns) * (sum(heights) + 0.16 * count))
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0.005)
    figures = plotting.figure(2 * count, len(columns), size=size, grid="none", layout=layout, height_ratios=heights)
    with figures as (figure, axes):
        for number in range(count):
            tile = int(tiles[number].double().var(dim=(1, 2, 3)).argmax())
            left, top = _busiest(tiles[number][tile])
            for place, column in enumerate(columns):
                images = tiles if column == "original" else measured[column].images
                image = images[number][tile].permute(1, 2, 0).numpy()
                whole = axes[2 * number * len(columns) + place]
                part = axes[(2 * number + 1) * len(columns) + place]
                whole.imshow(image, interpolation="lanczos")
                part.imshow(image[top : top + ZOOM[1], left : left + ZOOM[0]], interpolation="nearest")
                if column == "original":
                    whole.add_patch(Rectangle((left, top), *ZOOM, fill=False, color="white", linewidth=1.2))
                    caption = f"original: {split.held_out[number].name}"
                else:
                    caption = f"{NAMES[column]}, {measured[column].scores['psnr'][number][tile]:.1f} dB"
                whole.set_title(caption, fontsize=8.5, color=COLOURS.get(column, "black"), pad=3)
                for axis in (whole, part):
                    axis.set_axis_off()
    return figure


def quality_figure(measured: Mapping[str, Measured], split: photos.Split) -> Figure:
    """PSNR against decoder parameters with 95 % intervals, and the gains photograph by photograph."""
    with plotting.figure(1, 2, size=(9, 3.8), width_ratios=[1, 1.25]) as (figure, (left, right)):
        for row, ours in measured.items():
            psnr = jackknife.cluster_interval(ours.scores["psnr"])
            plotting.estimate(left, ours.params / 1e6, (psnr.value, psnr.low, psnr.high), colour=COLOURS[row])
            offset = {"ours": (-7, 12), "ours-lite": (7, -12)}.get(row, (7, 4))
            name = f"{NAMES[row]}\n{psnr.value:.2f} dB"
            plotting.annotate(left, name, (ours.params / 1e6, psnr.value), offset, color=COLOURS[row])
        left.set(xscale="log", xlabel="decoder parameters (million)", ylabel="PSNR (dB)")
        plotting.title(left, "Quality against size")
        left.margins(x=0.45, y=0.12)
        plotting.plain_log(left.xaxis)
        for place, (row, other) in enumerate(GAINS):
            first, second = measured[row].scores["psnr"], measured[other].scores["psnr"]
            each = [float(np.mean(a - b)) for a, b in zip(first, second, strict=True)]
            gain, colour = jackknife.paired_interval(first, second), COLOURS[row]
            right.scatter(each, [place + 0.16] * len(each), s=22, color=colour, alpha=0.45, linewidth=0)
            measures = gain.value, gain.low, gain.high
            plotting.estimate(right, place - 0.08, measures, colour=colour, along="x", marker="D")
            plotting.annotate(right, f"{gain.value:+.2f} dB", (gain.value, place - 0.08), (0, 7), color=colour)
        right.axvline(0, color="black", linewidth=0.8)
        labels = [f"{NAMES[row].split(' (')[0]} − {NAMES[other].split(' (')[0]}" for row, other in GAINS]
        right.set_yticks(range(len(GAINS)), labels=labels)
        right.set_ylim(len(GAINS) - 0.5, -0.6)
        right.set_xlabel(f"PSNR gain (dB): {len(split.held_out)} photographs (dots), mean and 95 % interval")
        plotting.title(right, "On the same tiles")
    return figure


def _reconstructed(model: vae.Autoencoder, tiles: Tensor) -> Tensor:
    one_by_one = [vae.reconstruct(model, photos.to_network(tile)) for tile in tiles.split(1)]
    return photos.to_uint8(torch.cat(one_by_one)).contiguous()


def _measuring(column: str, measured: Measured, split: photos.Split) -> str:
    tiles = sum(len(image) for image in measured.images)
    names = ", ".join(p.name for p in split.held_out[:12]) + (", ..." if len(split.held_out) > 12 else "")
    return (
        f"{measured.definitions.get(column, column)}; mean over each photograph's tiles, then over photographs: "
        f"{tiles} tiles of {photos.TILE} px from {len(split.held_out)} held-out photographs ({names}; {split.rule}); "
        f"95 % interval of Student over photographs"
    )


def _training(measured: Measured, split: photos.Split) -> str:
    recipe = measured.recipe
    layout, width, loop = vae.FAMILY[recipe.network["row"]], recipe.network["width"], recipe.loop
    part = "decoder alone, encoder of ours fixed" if layout.encoder_of else "encoder and decoder"
    crops = ", then ".join(
        f"{one.loop.steps} steps of {one.loop.batch} crops of {one.data['size']} px" for one in _in_turn(recipe)
    )
    return (
        f"small network in the paper's proportions (encoder width {width}, decoder width "
        f"{round(width * layout.decoder_share)}, {layout.latent_channels} latent channels, f8), {part}, reconstructed "
        f"from the latent's mean; {crops} from {len(split.train)} photographs, squared error and KL, no perceptual or "
        f"adversarial loss, Muon {loop.learning_rate:g}, {loop.precision}, {loop.threads} threads, "
        f"seed {recipe.data['seed']}"
    )


def _in_turn(recipe: Recipe) -> list[Recipe]:
    """The runs that trained a network, the first one first."""
    start = recipe.parents.get("start")
    return [*(_in_turn(registry.get(start)) if start else []), recipe]


def _busiest(image: Tensor) -> tuple[int, int]:
    """Left and top of the ``ZOOM`` window with the greatest variance, on a grid of 16 px; image (3, h, w)."""
    width, height = ZOOM
    windows = image.double().mean(dim=0).unfold(0, height, 16).unfold(1, width, 16)
    best = int(windows.var(dim=(2, 3)).argmax())
    return best % windows.shape[1] * 16, best // windows.shape[1] * 16
