"""A folder from which `mdrepro.export.runner` makes images: three networks, the tokenizer, and how they are used."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from transformers import TokenizersBackend

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.diffusion.protocols import Scheduler
from mdrepro.diffusion.renoise import RenoisingScheduler
from mdrepro.diffusion.samplers import scheduler_for
from mdrepro.export.components import Model
from mdrepro.export.parity import compare
from mdrepro.export.runner import FORMAT, Runner, bundle_name
from mdrepro.export.solvers import Array
from mdrepro.models.protocols import TextToImage
from mdrepro.sampling.generate import seeds

TOKENIZER = "tokenizer.json"
PROMPT = "a red star"  # the prompt that images are compared on: every tokenizer here knows its words


def schedule(scheduler: Scheduler) -> dict[str, Any]:
    """The fields of `solvers.Schedule` for a scheduler of diffusers.

    DDIM and re-noising go over as they are. Others that solve the same equation become DDIM with trailing spacing.
    Raises BadInput for LCM's scheduler, a threshold on pixels, or a noise schedule that DDIM cannot take over.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, RenoisingScheduler):
        return _levels(scheduler) | {"sampler": "renoise"}
    if name == "LCMScheduler" or scheduler.config.get("thresholding"):
        raise BadInput(f"{name} as it is set has no counterpart without torch: expected DDIM or RenoisingScheduler")
    ddim: DDIMScheduler = scheduler if isinstance(scheduler, DDIMScheduler) else scheduler_for("ddim", scheduler)
    return _levels(ddim) | {
        "sampler": "ddim",
        "clean": float(ddim.final_alpha_cumprod),
        "spacing": ddim.config.timestep_spacing,
        "offset": ddim.config.steps_offset,
        "clip": ddim.config.clip_sample_range if ddim.config.clip_sample else None,
    }


def _levels(scheduler: Scheduler) -> dict[str, Any]:
    return {"prediction": scheduler.config.prediction_type, "levels": [float(a) for a in scheduler.alphas_cumprod]}


def write(model: Model, files: Mapping[str, Path], folder: Path, precision: str, head: Mapping[str, Any]) -> Path:
    """Write ``tokenizer.json`` and ``bundle-<precision>.json`` into ``folder``, where ``files`` will lie, by component.

    Returns the path of the latter. Raises BadInput for a sampler or a tokenizer that the runner does not know.
    """
    pipeline = model.pipeline
    assert pipeline is not None
    tokenizer = pipeline.tokenizer
    if not isinstance(tokenizer, TokenizersBackend):
        name = type(tokenizer).__name__
        raise BadInput(f"{name} has no tokenizer.json: expected a tokenizer of the tokenizers library")
    special = (tokenizer.eos_token, tokenizer.bos_token)
    description = dict(head) | {
        "format": FORMAT,
        "precision": precision,
        "files": {name: file.name for name, file in files.items()},
        "sha256": {name: sha256(file) for name, file in files.items()},
        "tokenizer": {
            "file": TOKENIZER,
            "length": model.tokens,
            "padding": tokenizer.pad_token_id,
            "unknown": -1 if tokenizer.unk_token in special else tokenizer.unk_token_id,
        },
        "steps": pipeline.config.get("default_steps") or 50,
        "guidance": model.guidance,
        "schedule": schedule(pipeline.scheduler),
    }
    (folder / TOKENIZER).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    file = folder / bundle_name(precision)
    file.write_text(json.dumps(description, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def compare_images(model: Model, bundle: Path, prompt: str = PROMPT, threads: int | None = None) -> dict[str, Any]:
    """How far a bundle's image, and its latents after every step, are from those of the PyTorch pipeline.

    Both start from the same noise and take the checkpoint's own steps and guidance.

    Returns ``prompt``, ``steps`` (a `Parity` after each) and ``image``, of pixels in 0..1.
    """
    pipeline, runner = model.pipeline, Runner(bundle, threads)
    assert pipeline is not None
    seed, steps = seeds(0, 1)[0], runner.description["steps"]
    theirs: list[Array] = []
    ours: list[Array] = []
    if not isinstance(pipeline.scheduler, (DDIMScheduler, RenoisingScheduler)):
        pipeline.scheduler = scheduler_for("ddim", pipeline.scheduler)

    def keep(_: TextToImage, __: int, ___: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        theirs.append(tensors["latents"].numpy())
        return {}

    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        [prompt],
        num_inference_steps=steps,
        guidance_scale=model.guidance,
        generator=[torch.Generator().manual_seed(seed)],
        output_type="np",
        callback_on_step_end=keep,
        height=model.resolution,
        width=model.resolution,
    ).images
    rng = torch.Generator().manual_seed(seed)
    draws = [randn_tensor((1, *runner.latent), generator=[rng]) for _ in range(runner.schedule.draws(steps))]
    noise = torch.stack(draws, dim=1).numpy()
    images = runner.images([prompt], noise=noise, on_step=lambda _, __, x: ours.append(x))
    by_step = [asdict(compare([left], [right])) for left, right in zip(theirs, ours, strict=True)]
    image = compare([(expected * 255).round() / 255], [images / 255], span=1.0)
    return {"prompt": prompt, "steps": by_step, "image": asdict(image)}
