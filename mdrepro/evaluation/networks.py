"""Pipelines of rows: trained or published networks at the size of their pictures, changed as a row's setup says."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mdrepro.data.folders import CLIP, SD15
from mdrepro.data.shapes import SIZE
from mdrepro.diffusion.levels import SD_NOISE
from mdrepro.metrics.cost.measure import measure_module
from mdrepro.models import text
from mdrepro.models.latents import factor
from mdrepro.models.pipeline import MobileDiffusionPipeline
from mdrepro.models.protocols import TextToImage
from mdrepro.models.snapfusion.blocks import KINDS, Layout
from mdrepro.papers.schema import PUBLISHED
from mdrepro.sampling import generate
from mdrepro.training.recipes import registry
from mdrepro.training.runs import pipelines
from mdrepro.training.runs.model_folders import Pretrained


def _down(layout: Layout) -> list[str]:
    return [b.name for b in layout.blocks() if b.stage.startswith("down") and b.kind == "cross-attention"]


def _last(kind: str, layout: Layout) -> list[str]:
    """Of the last pair, ResNet and cross-attention, of each stage that has several."""
    last = [stage[-1] for stage in layout.stages.values() if len(stage) > 1]
    return [b.name for blocks in last if {b.kind for b in blocks} == set(KINDS) for b in blocks if b.kind == kind]


REMOVALS: Mapping[str, Callable[[Layout], list[str]]] = {
    "": lambda _: [],
    "all cross-attention blocks of the down stages": _down,
    "the last cross-attention block of each stage that has several": partial(_last, "cross-attention"),
    "the ResNet before the last cross-attention block of each stage that has several": partial(_last, "resnet"),
}
"""Names of the blocks that a setup removes, by what it says."""


def pipeline(recipe: str) -> MobileDiffusionPipeline:
    """Text to image by a recipe, or by `PUBLISHED` networks, at the size of the recipe's pictures.

    Errors are those of `pipelines.load` and `Pretrained.load`.
    """
    if recipe == PUBLISHED:
        return published()
    whole, size = pipelines.load(recipe), registry.get(recipe).data.get("size")
    if size is not None:
        whole.unet.register_to_config(sample_size=size // factor(whole.vae))
    return whole


def published() -> MobileDiffusionPipeline:
    """Stable Diffusion 1.5, from ``data/weights/``, the hub's cache or the hub."""
    from diffusers import DDIMScheduler

    sd, clip = Pretrained(SD15), Pretrained(CLIP)
    return MobileDiffusionPipeline(
        vae=sd.load("vae"),
        text_encoder=clip.load("text_encoder"),
        tokenizer=clip.load("tokenizer"),
        unet=sd.load("unet"),
        scheduler=DDIMScheduler(**SD_NOISE),
    )


def denoiser_gmacs(pipeline: MobileDiffusionPipeline) -> float:
    """Multiply-accumulates of one evaluation of the denoiser at its own size, batch 1, 10^9."""
    unet, tokens = pipeline.unet, text.encode(pipeline.tokenizer, pipeline.text_encoder, [""]).shape[1]
    side = unet.config.sample_size
    inputs = {
        "sample": torch.zeros(1, unet.config.in_channels, side, side, device="meta"),
        "timestep": torch.zeros(1, dtype=torch.long, device="meta"),
        "encoder_hidden_states": torch.zeros(1, tokens, unet.config.cross_attention_dim, device="meta"),
    }
    return measure_module(unet, inputs, name=type(unet).__name__, resolution=SIZE).macs / 1e9


def latents(
    pipeline: TextToImage,
    texts: Sequence[str],
    *,
    steps: int,
    guidance: float,
    seed: int,
    sampler: str | None = "ddim",
    batch: int = 50,
) -> Tensor:
    """Scaled latents of captions, (n, channels, height, width), from the noise that `generate.images` begins with.

    Arguments are as there, but for DDIM as the default. The pipeline stays as it is.
    """
    generators = [torch.Generator().manual_seed(start) for start in generate.seeds(seed, len(texts))]
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "latent"}
    batches = [slice(first, first + batch) for first in range(0, len(texts), batch)]
    with generate.prepared(pipeline, sampler):
        return torch.cat([pipeline(list(texts[one]), generator=generators[one], **options).images for one in batches])
