"""Table ``snapfusion-decoder``: the same latents by the original decoder and by half of its width; rows and figures."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from mdrepro.core import plotting
from mdrepro.diffusion.samplers import scheduler_for
from mdrepro.evaluation import networks, paired, scenes
from mdrepro.evaluation.networks import Names
from mdrepro.evaluation.protocol import Drawn, Evaluation
from mdrepro.evaluation.rows import Row
from mdrepro.metrics.bootstrap import cluster_interval
from mdrepro.metrics.image import images, reconstruction
from mdrepro.models import latents as convention
from mdrepro.models.mobilediffusion import vae
from mdrepro.sampling import generate
from mdrepro.training.runs.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DENOISER = "shapes-base"
ORIGINAL = "original"
DECODERS: Mapping[str, str] = MappingProxyType({ORIGINAL: "shapes-vae", "half-width": "shapes-decoder-half"})
"""Recipes of the decoders, by row."""
RECIPES = (*scenes.SCORERS, DENOISER, *DECODERS.values())
HALF = DECODERS["half-width"]
NETWORKS: Mapping[str, Names] = MappingProxyType(
    {
        "proxy": {DENOISER: "proxy-sd", HALF: "proxy-decoder"},
        "paper": {DENOISER: networks.PUBLISHED, HALF: "sf-decoder"},
    }
)
"""The original decoder is that of Stable Diffusion, which comes with the denoiser."""


def name(row: str, tier: str = "quick") -> str:
    """What a row's decoder is."""
    return networks.at(NETWORKS, tier, DECODERS[row]) or "Stable Diffusion's autoencoder"


def denoiser(tier: str) -> str:
    """What makes the latents."""
    return networks.at(NETWORKS, tier, DENOISER) or DENOISER


def load(trained: Mapping[str, Run], tier: str = "quick") -> tuple[Any, dict[str, AutoencoderKL]]:
    """The denoiser's pipeline, and the decoders by row."""
    pipeline = networks.pipelines([denoiser(tier)])[denoiser(tier)]
    names = {row: networks.at(NETWORKS, tier, recipe) for row, recipe in DECODERS.items()}
    return pipeline, {row: trained[one].load("vae") if one else pipeline.vae for row, one in names.items()}


def latents(
    pipeline: Any, texts: Sequence[str], scales: Sequence[float], *, steps: int, seed: int, batch: int = 50
) -> dict[float, Tensor]:
    """Scaled latents of captions, (n, channels, height, width), by guidance scale.

    Each begins with the noise that `generate.images` begins with.

    Args:
        pipeline: of the denoiser; its decoder is not used.
        texts: captions, one latent each.
        scales: of guidance.
        steps: of DDIM.
        seed: of the noise.
        batch: latents at once.
    """
    pipeline.scheduler = scheduler_for("ddim", pipeline.scheduler)
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
    pipeline: Any,
    decoders: Mapping[str, AutoencoderKL],
    scales: Sequence[float],
    scored: Evaluation,
    *,
    steps: int,
    seed: int,
    tier: str = "quick",
) -> dict[float, dict[str, Any]]:
    """The images of the same latents by every decoder, scored, and what no model made (on scenes row ``real``).

    Scenes' latents are made once. On COCO each decoder's images are made from the prompts, by the same latents, as
    `generate.generate` keeps them.

    Args:
        pipeline: of the denoiser.
        decoders: by row.
        scales: of guidance.
        scored: the captions, and what scores.
        steps, seed: of the latents.
        tier: whose networks.

    Returns:
        by guidance scale, by row.
    """
    by_scale = latents(pipeline, scored.captions, scales, steps=steps, seed=seed) if isinstance(scored, Drawn) else {}
    done: dict[float, dict[str, Any]] = {}
    for w in dict.fromkeys(scales):
        done[w] = {}
        for row, decoder in decoders.items():
            how = f"{name(row, tier)}, latents of {denoiser(tier)}, {steps} steps of ddim, guidance {w:g}, seed {seed}"
            if isinstance(scored, Drawn):
                made = decode(decoder, by_scale[w])
                done[w][row] = scenes.found(how, made, scored.scenes, scored.scorers)
            else:
                given: dict[str, Any] = {"steps": steps, "guidance": w, "sampler": "ddim", "seed": seed}
                done[w][row] = without_time(scored.images(with_decoder(pipeline, decoder), how, **given))
        done[w] |= scored.best()
    return done


def without_time(made: Any) -> Any:
    """Images as they are; of these the time tells nothing, as latents may have been made before."""
    return replace(made, seconds=None)


def with_decoder(pipeline: Any, decoder: AutoencoderKL) -> Any:
    """The pipeline with another decoder."""
    return type(pipeline)(**{**pipeline.components, "vae": decoder})


def latent_side(tier: str) -> int:
    """Latent pixels a side: of 64, 256 and 512 px."""
    return {"quick": 8, "proxy": 32, "paper": 64}[tier]


@torch.inference_mode()
def latencies(decoders: Mapping[str, AutoencoderKL], latent: Tensor, rounds: int = 30) -> dict[str, float]:
    """Milliseconds to decode one latent, the median over rounds; a round runs each decoder once.

    Args:
        decoders: by row.
        latent: one, (1, channels, height, width).
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
    measured: Mapping[str, Any],
    decoders: Mapping[str, AutoencoderKL],
    ms: Mapping[str, float],
    scored: Evaluation,
    tier: str = "quick",
) -> list[Row]:
    """Quality of each decoder and its distance from the original's, nearness of the images, parameters and latency.

    Args:
        measured: from `measure`, at one guidance scale.
        decoders: by row.
        ms: from `latencies`.
        scored: what scored.
        tier: whose networks.
    """
    cells = paired.rows(measured, scored, against=ORIGINAL)
    side = latent_side(tier)
    for row, decoder in decoders.items():
        params = vae.decoder_parameters(decoder) / 1e6
        how = f"decoder of {name(row, tier)}"
        threads = torch.get_num_threads()
        timed = f"{how}; one latent of {side} x {side}, {threads} CPU threads, median; depends on the machine"
        cells += [
            Row(row, "params", params, how),
            Row(row, "latency_ms", ms[row], timed),
        ]
        if row != ORIGINAL:
            ours, theirs = measured[row], measured[ORIGINAL]
            near = cluster_interval([[value] for value in psnr(ours, theirs)])
            told = f"mean over images of the PSNR of 8-bit RGB; {ours.how}; {scenes.SPREAD}"
            cells.append(Row.measured(row, "psnr_to_original", near, told))
    return cells


def psnr(ours: Any, theirs: Any) -> list[float]:
    """PSNR of each image to the other set's, dB; of images on disk, two at a time."""
    if hasattr(ours, "images"):
        return reconstruction.psnr(ours.images, theirs.images).tolist()
    pairs = zip(ours.files, theirs.files, strict=True)
    return [float(reconstruction.psnr(*(images.read(file)[None] for file in pair))) for pair in pairs]


Curve = dict[str, list[tuple[float, float, float]]]
"""By row: guidance, CLIP score and FID of each point."""


def curves(measured: Mapping[float, Mapping[str, Any]], scored: Evaluation) -> Curve:
    """Fig. 8b: the two scores of each decoder over the guidance scale.

    Args:
        measured: from `measure`.
        scored: what scored.
    """
    made: Curve = {row: [] for row in DECODERS}
    for guidance, found in sorted(measured.items()):
        for row, points in made.items():
            ours = found[row]
            points.append((guidance, float(ours.similarity.mean()), scored.distance(ours)))
    return made


def curve_figure(curve: Curve, of: str = "[shapes]") -> "Figure":
    """FID over CLIP score; each point is a guidance scale. ``of``: what follows the scores' names."""
    with plotting.figure(size=(6, 4.2)) as (figure, (axis,)):
        for (row, points), colour in zip(curve.items(), (plotting.BLUE, plotting.ORANGE), strict=True):
            _, clip, fid = zip(*points, strict=True)
            axis.plot(clip, fid, "o-", color=colour, label=f"{row} decoder", mec="white", ms=7)
            for w, x, y in points:
                plotting.annotate(axis, f"{w:g}", (x, y), (0, 6), color=colour)
        axis.set(xlabel=f"CLIP score{of}", ylabel=f"FID{of}")
        axis.legend(frameon=False)
    return figure
