"""Table ``snapfusion-decoder``: the same latents by the original decoder and by half of its width; rows and figures."""

import statistics
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mdrepro.data.shapes import Scene
from mdrepro.metrics import frechet, reconstruction
from mdrepro.metrics.bootstrap import cluster_interval
from mdrepro.metrics.statistics import Statistics
from mdrepro.models import latents as convention
from mdrepro.models import vae
from mdrepro.reproduce.rows import Row
from mdrepro.reproduce.tables import alike, quality
from mdrepro.reproduce.tables.quality import Found, Scorers
from mdrepro.sampling import generate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENOISER = "shapes-base"
ORIGINAL = "original"
DECODERS: Mapping[str, str] = MappingProxyType({ORIGINAL: "shapes-vae", "half-width": "shapes-decoder-half"})
"""Recipes of the decoders, by row."""
RECIPES = (*quality.SCORERS, DENOISER, *DECODERS.values())


def latents(
    pipeline: Any, scenes: Sequence[Scene], scales: Sequence[float], *, steps: int, seed: int, batch: int = 50
) -> dict[float, Tensor]:
    """Scaled latents of the scenes' captions, (n, channels, 8, 8), by guidance scale.

    Each begins with the noise that `generate.images` begins with.

    Args:
        pipeline: of the denoiser; its decoder is not used.
        scenes: one latent each.
        scales: of guidance.
        steps: of DDIM.
        seed: of the noise.
        batch: latents at once.
    """
    texts = quality.prompts(scenes)
    pipeline.scheduler = generate.scheduler_for("ddim", pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)

    def made(first: int, guidance: float) -> Tensor:
        starts = generate.seeds(seed, len(texts))[first : first + batch]
        generators = [torch.Generator().manual_seed(start) for start in starts]
        how = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "latent"}
        latent: Tensor = pipeline(texts[first : first + batch], generator=generators, **how).images
        return latent

    return {w: torch.cat([made(first, w) for first in range(0, len(texts), batch)]) for w in dict.fromkeys(scales)}


@torch.inference_mode()
def decode(decoder: AutoencoderKL, latent: Tensor, batch: int = 50) -> Tensor:
    """Images of scaled latents, uint8 (n, 3, 64, 64)."""
    return torch.cat([convention.to_image(decoder, part, "uint8") for part in latent.split(batch)])


def measure(
    decoders: Mapping[str, AutoencoderKL],
    by_scale: Mapping[float, Tensor],
    scenes: Sequence[Scene],
    scored_by: Scorers,
    *,
    steps: int,
    seed: int,
) -> dict[float, dict[str, Found]]:
    """What is in the images of the same latents by every decoder, and in the scenes' own renders (row ``real``).

    Args:
        decoders: by row.
        by_scale: from `latents`.
        scenes: whose captions the latents are of.
        scored_by: the scorers.
        steps, seed: of the latents.

    Returns:
        by guidance scale, by row.
    """
    real, done = quality.renders(scenes, scored_by), {}
    for w, latent in by_scale.items():
        found = {}
        for row, decoder in decoders.items():
            how = f"{DECODERS[row]}, latents of {DENOISER}, {steps} steps of ddim, guidance {w:g}, seed {seed}"
            found[row] = quality.found(how, decode(decoder, latent), scenes, scored_by)
        done[w] = found | {"real": real}
    return done


@torch.inference_mode()
def latencies(decoders: Mapping[str, AutoencoderKL], latent: Tensor, rounds: int = 30) -> dict[str, float]:
    """Milliseconds to decode one latent, the median over rounds; a round runs each decoder once.

    Args:
        decoders: by row.
        latent: one, (1, channels, 8, 8).
        rounds: that count, after one that does not.
    """
    taken: dict[str, list[float]] = {row: [] for row in decoders}
    for _ in range(rounds + 1):
        for row, decoder in decoders.items():
            began = time.perf_counter()
            decoder.decode(latent)
            taken[row].append(time.perf_counter() - began)
    return {row: 1000 * statistics.median(seconds[1:]) for row, seconds in taken.items()}


def rows(
    measured: Mapping[str, Found],
    decoders: Mapping[str, AutoencoderKL],
    ms: Mapping[str, float],
    real: Statistics,
    scored_by: str,
) -> list[Row]:
    """Quality of each decoder and its distance from the original's, nearness of the images, parameters and latency.

    Args:
        measured: from `measure`, at one guidance scale.
        decoders: by row.
        ms: from `latencies`.
        real: from `quality.reference`.
        scored_by: what scored, in words.
    """
    cells = alike.rows(measured, real, scored_by, against=ORIGINAL)
    for row, decoder in decoders.items():
        params = vae.decoder_parameters(decoder) / 1e6
        how = f"decoder of {DECODERS[row]}"
        timed = f"{how}; one latent of 8 x 8, {torch.get_num_threads()} CPU threads, median; depends on the machine"
        cells += [
            Row(row=row, column="params", value=params, unit="M", protocol=how),
            Row(row=row, column="latency_ms", value=ms[row], unit="ms", protocol=timed),
        ]
        if row != ORIGINAL:
            ours, theirs = measured[row], measured[ORIGINAL]
            near = cluster_interval([[value] for value in reconstruction.psnr(ours.images, theirs.images).tolist()])
            told = f"mean over images of the PSNR of 8-bit RGB; {ours.how}; {quality.SPREAD}"
            cells.append(
                Row(
                    row=row,
                    column="psnr_to_original",
                    value=near.value,
                    unit="dB",
                    n=near.n,
                    ci_low=near.low,
                    ci_high=near.high,
                    protocol=told,
                )
            )
    return cells


Curve = dict[str, list[tuple[float, float, float]]]
"""By row: guidance, CLIP score[shapes] and FID[shapes] of each point."""


def curves(measured: Mapping[float, Mapping[str, Found]], real: Statistics) -> Curve:
    """Fig. 8b: the two scores of each decoder over the guidance scale.

    Args:
        measured: from `measure`.
        real: from `quality.reference`.
    """
    made: Curve = {row: [] for row in DECODERS}
    for guidance, found in sorted(measured.items()):
        for row, points in made.items():
            ours = found[row]
            fid = frechet.distance(real, Statistics.of(ours.features, real.convention)).value
            points.append((guidance, float(ours.similarity.mean()), fid))
    return made


def curve_figure(curve: Curve) -> "Figure":
    """FID[shapes] over CLIP score[shapes]; each point is a guidance scale."""
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for (row, points), colour in zip(curve.items(), ("#1d4f91", "#c8501e"), strict=True):
        _, clip, fid = zip(*points, strict=True)
        axis.plot(clip, fid, "o-", color=colour, label=f"{row} decoder")
        for w, x, y in points:
            axis.annotate(f"{w:g}", (x, y), (0, 6), textcoords="offset points", ha="center", fontsize=8, color=colour)
    axis.set(xlabel="CLIP score[shapes]", ylabel="FID[shapes]")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)
    plt.close(figure)
    return figure
