"""Sets of images from prompts: the same image for a prompt whatever the batch, the shard, or an interruption.

Each prompt has a generator of its own, so its noise is the same bit for bit at any batch size. Pixels are too where
batches are: batch b always holds prompts b * batch to (b + 1) * batch - 1, shards take whole batches in turn, and a
batch of which one image is missing is computed whole. At another batch size rounding may move a pixel by one level.
"""

import contextlib
import copy
import hashlib
import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin
from PIL import Image
from torch import Tensor, nn

from mdrepro.core import distributed
from mdrepro.core.console import Progress, track
from mdrepro.core.errors import BadInput
from mdrepro.core.files import digest, replacing
from mdrepro.core.workers import side_by_side
from mdrepro.diffusion.samplers import scheduler_for
from mdrepro.models.latents import convert
from mdrepro.models.protocols import TextToImage
from mdrepro.sampling import manifest
from mdrepro.sampling.manifest import Manifest


def seeds(seed: int, count: int) -> list[int]:
    """The seeds of ``count`` prompts' generators: consecutive and distinct, from a start that depends on ``seed`` only.

    A CPU generator keeps 32 bits of its seed. Sets of n prompts with two seeds overlap with probability n / 2^31.
    """
    start = int.from_bytes(hashlib.sha256(f"prompts {seed}".encode()).digest()[:4], "big")
    return [(start + index) % 2**32 for index in range(count)]


def images(
    pipeline: TextToImage,
    prompts: Sequence[str],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
    batch: int = 8,
) -> Tensor:
    """The images that `generate` stores, in memory: uint8, (prompts, 3, height, width), on the CPU.

    A pipeline on the CPU makes as many batches at once as torch has threads, each by one. Arguments and errors are as
    there.
    """
    _check(prompts, batch)
    starts, batches, made = seeds(seed, len(prompts)), _batches(len(prompts), batch), list[Tensor]()
    with prepared(pipeline, sampler), Progress("images", len(batches), "batches") as progress:
        options = _options(pipeline, steps, guidance, sampler, seed, batch)

        def work(rows: range) -> Tensor:
            return _make(_apart(pipeline), [prompts[i] for i in rows], [starts[i] for i in rows], options)

        for pixels_bchw in (side_by_side if pipeline.device.type == "cpu" else map)(work, batches):
            made.append(pixels_bchw)
            progress.advance()
    return torch.cat(made)


def generate(
    pipeline: TextToImage,
    prompts: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
    batch: int = 8,
    shard: tuple[int, int] | None = None,
) -> Manifest:
    """Write the missing and damaged images of a set, one PNG per prompt, and after the last one the manifest.

    It may be interrupted anywhere, and called again with the same arguments, until the manifest is there.

    Args:
        pipeline: MobileDiffusionPipeline, or any text-to-image pipeline of diffusers that takes a list of generators.
        prompts: one per image.
        folder: new, empty, or holding a part of the same set.
        steps, guidance: of the pipeline's call; None for the checkpoint's own, or else the call's default.
        sampler: a name in `mdrepro.diffusion.samplers.SAMPLERS`; None for the pipeline's own scheduler as it is.
        seed: of the set: with the same seed and prompt index, two samplers start from the same noise.
        batch: images per call of the pipeline.
        shard: (i, n): generate every n-th batch from the i-th on, i from 0. None for the process's place under
            ``accelerate launch`` or ``torchrun``, the pipeline being moved to its device; everything outside of them.

    Returns the images in the folder, other shards' included; ``complete`` where none is missing.

    Raises BadInput for an invalid argument, or a folder that holds something else (see `mdrepro.sampling.manifest`).
    """
    _check(prompts, batch)
    index, shards = _process(pipeline) if shard is None else shard
    if not 0 <= index < shards:
        raise BadInput(f"shard {index} of {shards}: must be from 0 to {shards - 1}")
    target, starts = Path(folder), seeds(seed, len(prompts))
    with prepared(pipeline, sampler):
        options = _options(pipeline, steps, guidance, sampler, seed, batch)
        settings = _settings(pipeline, prompts, options)
        manifest.begin(target, settings)
        mine = _batches(len(prompts), batch)[index::shards]
        missing = [rows for rows in mine if not all(manifest.whole(target / manifest.name(i)) for i in rows)]
        for rows in track(missing, "images", "batches"):
            pixels_bchw = _make(pipeline, [prompts[i] for i in rows], [starts[i] for i in rows], options)
            for row, pixels_chw in zip(rows, pixels_bchw, strict=True):
                _store(target / manifest.name(row), pixels_chw)
    return manifest.end(target, settings, prompts, starts)


def settings(
    pipeline: TextToImage,
    prompts: Sequence[str],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    sampler: str | None = None,
    seed: int = 0,
    batch: int = 8,
) -> dict[str, Any]:
    """The settings that `generate` writes before its first image; arguments and errors as there."""
    _check(prompts, batch)
    with prepared(pipeline, sampler):
        return _settings(pipeline, prompts, _options(pipeline, steps, guidance, sampler, seed, batch))


def _settings(pipeline: TextToImage, prompts: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    texts = {"images": len(prompts), "prompts_sha256": digest(list(prompts), compact=False)}
    return describe(pipeline) | options | texts


def describe(pipeline: TextToImage) -> dict[str, Any]:
    """What determines a pipeline's images, as JSON values: its class, weights, data type and scheduler."""
    scheduler = pipeline.scheduler
    known = inspect.signature(type(scheduler)).parameters
    config = {name: value for name, value in sorted(scheduler.config.items()) if name in known}
    return {
        "pipeline": type(pipeline).__name__,
        "weights_sha256": weights_sha256(pipeline),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "scheduler": type(scheduler).__name__,
        "scheduler_config": json.loads(json.dumps(config, default=str)),
    }


def weights_sha256(pipeline: TextToImage) -> str:
    """A hash over each network's class, configuration (in diffusers) and weights, and each tokenizer's vocabulary.

    It is the same in memory and after saving and loading, and on any device, but not for another data type.
    """
    hashed = hashlib.sha256()
    for name, part in sorted(pipeline.components.items()):
        if isinstance(part, nn.Module):
            config = part.config if isinstance(part, ConfigMixin) else {}
            public = {key: value for key, value in sorted(config.items()) if not key.startswith("_")}
            hashed.update(f"{name} {type(part).__name__} {json.dumps(public, default=str)}".encode())
            for key, tensor in sorted(part.state_dict().items()):
                hashed.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                hashed.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif hasattr(part, "get_vocab"):
            vocabulary = json.dumps([sorted(part.get_vocab().items()), part.model_max_length])
            hashed.update(f"{name} {vocabulary}".encode())
    return hashed.hexdigest()


def _make(pipeline: TextToImage, prompts: list[str], starts: list[int], options: Mapping[str, Any]) -> Tensor:
    """One batch: uint8 (prompts, 3, height, width), rounded once."""
    generators = [torch.Generator().manual_seed(start) for start in starts]
    call = {"num_inference_steps": options["steps"], "guidance_scale": options["guidance"], "output_type": "pt"}
    return convert(pipeline(prompts, generator=generators, **call).images.float().cpu(), "0..1", "uint8")


def _apart(pipeline: TextToImage) -> TextToImage:
    """The same networks with a scheduler and tokenizers of their own, which change while a pipeline runs."""
    own = copy.copy(pipeline)
    for name, part in pipeline.components.items():
        if part is not None and not isinstance(part, nn.Module):
            setattr(own, name, copy.deepcopy(part))
    return own


def _store(path: Path, pixels_chw: Tensor) -> None:
    with replacing(path) as aside:
        Image.fromarray(pixels_chw.permute(1, 2, 0).contiguous().numpy()).save(aside, "PNG")


@contextlib.contextmanager
def prepared(pipeline: TextToImage, name: str | None) -> Iterator[None]:
    """Inside the block the pipeline has the named sampler and no progress bar of its own.

    Raises BadInput for an unknown name, or a pipeline that puts black images in place of some.
    """
    if getattr(pipeline, "safety_checker", None) is not None:
        raise BadInput(
            "the pipeline's safety checker replaces images by black ones, which metrics would count: load it with "
            'safety_checker=None, or write "safety_checker": [null, null] into its model_index.json'
        )
    scheduler, bar = pipeline.scheduler, getattr(pipeline, "_progress_bar_config", {})
    pipeline.scheduler = scheduler if name is None else scheduler_for(name, scheduler)
    pipeline.set_progress_bar_config(**{**bar, "disable": True})
    try:
        yield
    finally:
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(**bar)


def _options(
    pipeline: TextToImage, steps: int | None, guidance: float | None, sampler: str | None, seed: int, batch: int
) -> dict[str, Any]:
    """What is given; steps and guidance also as the checkpoint says, or as the call has them by default."""
    call = inspect.signature(type(pipeline).__call__).parameters

    def option(given: float | None, own: str, argument: str) -> float:
        value = pipeline.config.get(own) if given is None else given
        return float(call[argument].default if value is None else value)

    return {
        "sampler": sampler,
        "steps": int(option(steps, "default_steps", "num_inference_steps")),
        "guidance": option(guidance, "default_guidance", "guidance_scale"),
        "seed": seed,
        "batch": batch,
    }


def _batches(count: int, batch: int) -> list[range]:
    return [range(first, min(first + batch, count)) for first in range(0, count, batch)]


def _process(pipeline: TextToImage) -> tuple[int, int]:
    index, processes = distributed.position()
    if processes > 1:
        pipeline.to(distributed.device())
    return index, processes


def _check(prompts: Sequence[str], batch: int) -> None:
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
        raise BadInput("prompts: must be a non-empty list of texts")
    if batch < 1:
        raise BadInput(f"batch is {batch}: must be at least 1")
