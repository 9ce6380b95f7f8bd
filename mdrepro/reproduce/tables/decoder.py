"""Table ``snapfusion-decoder``: the same latents by the original decoder and by half of its width; rows and figures."""

import statistics
import time
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from mdrepro.core import plotting
from mdrepro.evaluation import estimators
from mdrepro.evaluation.experiment import Experiment
from mdrepro.evaluation.protocol import REFERENCES, Evaluation, Replicas, Scored
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.image import reconstruction
from mdrepro.metrics.jackknife import Estimate, means_without
from mdrepro.models.mobilediffusion import vae
from mdrepro.models.protocols import Autoencoder
from mdrepro.papers import ledger

ORIGINAL = "original"
SIDES = {"quick": 8, "proxy": 32, "paper": 64}  # latent pixels a side, by tier: of 64, 256 and 512 px
Curve = dict[str, list[tuple[float, float, float]]]
"""By row: guidance, CLIP score and FID of each point."""


def measure(
    experiment: Experiment, scored: Evaluation[Scored], scales: Sequence[float], *, seed: int
) -> dict[float, dict[str, Replicas[Scored]]]:
    """Images of the same latents by every decoder, scored, by guidance scale and row; see `Experiment.decoded`.

    The original's images at half of their resolution stand beside them: a loss that must be seen.
    """
    by_scale = {}
    for w in dict.fromkeys(scales):
        decoded = experiment.decoded(scored, seed=seed, guidance=w)
        halves = [scored.at_half_resolution(images) for images in decoded[ORIGINAL]]
        by_scale[w] = decoded | {row: tuple(half[row] for half in halves) for row in halves[0]}
    return by_scale


def decoders(experiment: Experiment) -> dict[str, Autoencoder]:
    """Each row's decoder."""
    return {row: experiment.pipeline(row).vae for row in experiment.setups}


@torch.inference_mode()
def latencies(decoders: Mapping[str, Autoencoder], latent: Tensor, rounds: int = 30) -> dict[str, float]:
    """Milliseconds to decode one latent, (1, channels, height, width), by row: the median over rounds.

    A round runs each decoder once; ``rounds`` of them count, after one that does not.
    """
    taken: dict[str, list[float]] = {row: [] for row in decoders}
    for _ in range(rounds + 1):
        for row, decoder in decoders.items():
            began = time.perf_counter()
            decoder.decode(latent)
            taken[row].append(time.perf_counter() - began)
    return {row: 1000 * statistics.median(seconds[1:]) for row, seconds in taken.items()}


def rows(
    experiment: Experiment,
    measured: Mapping[str, Replicas[Scored]],
    ms: Mapping[str, float],
    scored: Evaluation[Scored],
) -> list[Row]:
    """Quality of each decoder and its difference from the original's, nearness of the images, parameters and latency.

    ``measured``: from `measure`, at one guidance scale. ``ms``: from `latencies`.
    """
    cells = estimators.rows(ledger.find(experiment.table), measured, scored)
    side, threads = SIDES[experiment.tier], torch.get_num_threads()
    for row, decoder in decoders(experiment).items():
        name = f"decoder of {experiment.setups[row].decoder or 'the autoencoder that comes with the denoiser'}"
        timed = f"{name}; one latent of {side} x {side}, {threads} CPU threads, median; depends on the machine"
        cells.append(Row(row, "params", vae.decoder_parameters(decoder) / 1e6, name))
        cells.append(Row(row, "latency_ms", ms[row], timed))
        if row != ORIGINAL:
            near = []
            for ours, theirs in zip(measured[row], measured[ORIGINAL], strict=True):
                pairs = zip(ours.batches(), theirs.batches(), strict=True)
                near.append(means_without([psnr for pair in pairs for psnr in reconstruction.psnr(*pair).tolist()]))
            protocol = f"mean over images of the PSNR of 8-bit RGB; {measured[row][0].description}"
            found = Estimate.of(near, len(scored.captions)).mean()
            cells.append(estimators.cell(row, "psnr_to_original", found, protocol))
    return cells


def curves(measured: Mapping[float, Mapping[str, Replicas[Scored]]], scored: Evaluation[Scored]) -> Curve:
    """Fig. 8b: the two scores of each decoder over the guidance scale, of what `measure` gave."""
    points: Curve = {}
    for guidance, by_row in sorted(measured.items()):
        for row, replicas in by_row.items():
            if row not in REFERENCES:
                clip, fid = (
                    estimators.estimate(scored.measures[scored.column(name)], replicas).value
                    for name in ("clip_shapes", "fid_shapes")
                )
                points.setdefault(row, []).append((guidance, clip, fid))
    return points


def curve_figure(curve: Curve, label: str = "[shapes]") -> Figure:
    """FID over CLIP score; each point is a guidance scale. ``label`` follows the scores' names."""
    labels: list[tuple[str, tuple[float, float], str]] = []
    with plotting.figure(size=(6, 4.2)) as (figure, (axis,)):
        for (row, points), colour in zip(curve.items(), (plotting.BLUE, plotting.ORANGE), strict=True):
            _, clip, fid = zip(*points, strict=True)
            axis.plot(clip, fid, "o-", color=colour, label=f"{row} decoder", mec="white", ms=7)
            labels += [(f"{w:g}", (x, y), colour) for w, x, y in points]
        axis.set(xlabel=f"CLIP score{label}, higher is better", ylabel=f"FID{label}, lower is better")
        axis.legend(frameon=False)
        plotting.label_points(axis, labels)
    return figure
