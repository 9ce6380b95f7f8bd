"""A folder from which `mdrepro.export.runner` makes images: three files, the tokenizer, and how they go together."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor

from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.diffusion.renoise import RenoisingScheduler
from mdrepro.diffusion.samplers import scheduler_for
from mdrepro.export.components import Model
from mdrepro.export.parity import Parity, compare
from mdrepro.export.runner import FORMAT, Runner, bundle_name
from mdrepro.sampling.generate import seeds

TOKENIZER = "tokenizer.json"
PROMPT = "a red star"
"""Words that every tokenizer here knows: the prompt that images are compared on."""


def schedule(scheduler: Any) -> dict[str, Any]:
    """The fields of `solvers.Schedule` for a scheduler of diffusers.

    DDIM and re-noising go over as they are. Others that solve the same equation become DDIM with trailing spacing.

    Raises:
        BadInput: LCM's scheduler, a threshold on pixels, or a noise schedule that DDIM cannot take over.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, RenoisingScheduler):
        return _levels(scheduler) | {"sampler": "renoise"}
    if name == "LCMScheduler" or scheduler.config.get("thresholding"):
        raise BadInput(f"{name} as it is set has no counterpart without torch: allowed are DDIM and RenoisingScheduler")
    ddim: DDIMScheduler = scheduler if isinstance(scheduler, DDIMScheduler) else scheduler_for("ddim", scheduler)
    return _levels(ddim) | {
        "sampler": "ddim",
        "clean": float(ddim.final_alpha_cumprod),
        "spacing": ddim.config.timestep_spacing,
        "offset": ddim.config.steps_offset,
        "clip": ddim.config.clip_sample_range if ddim.config.clip_sample else None,
    }


def _levels(scheduler: Any) -> dict[str, Any]:
    return {"prediction": scheduler.config.prediction_type, "levels": [float(a) for a in scheduler.alphas_cumprod]}


def write(model: Model, files: Mapping[str, Path], place: Path, precision: str, head: Mapping[str, Any]) -> Path:
    """Write ``tokenizer.json`` and ``bundle-<precision>.json`` into ``place``; the path of the latter.

    Args:
        model: a checkpoint's.
        files: of each component, as they will lie beside the two.
        place: a folder.
        precision: of the files.
        head: metadata.

    Raises:
        BadInput: a sampler or a tokenizer that the runner does not know.
    """
    pipeline = model.pipeline
    words = pipeline.tokenizer
    if not hasattr(words, "backend_tokenizer"):
        raise BadInput(
            f"{type(words).__name__} has no tokenizer.json: allowed are tokenizers of the tokenizers library"
        )
    told = dict(head) | {
        "format": FORMAT,
        "precision": precision,
        "files": {name: file.name for name, file in files.items()},
        "sha256": {name: sha256(file) for name, file in files.items()},
        "tokenizer": {
            "file": TOKENIZER,
            "length": model.tokens,
            "padding": words.pad_token_id,
            "unknown": words.unk_token_id if words.unk_token not in (words.eos_token, words.bos_token) else -1,
        },
        "steps": pipeline.config.get("default_steps") or 50,
        "guidance": model.guidance,
        "schedule": schedule(pipeline.scheduler),
    }
    (place / TOKENIZER).write_text(words.backend_tokenizer.to_str(), encoding="utf-8")
    file = place / bundle_name(precision)
    file.write_text(json.dumps(told, ensure_ascii=False) + "\n", encoding="utf-8")
    return file


def compare_images(model: Model, bundle: Path, prompt: str = PROMPT, threads: int | None = None) -> dict[str, Any]:
    """How far the runner's image, and its latents after every step, are from those of the torch pipeline.

    Both start from the same noise and take the checkpoint's own steps and guidance.

    Args:
        model: a checkpoint's.
        bundle: its bundle.
        prompt: of the image.

    Returns:
        ``prompt``, ``steps`` (a `Parity` after each) and ``image``, of pixels in 0..1.
    """
    pipeline, runner = model.pipeline, Runner(bundle, threads)
    seed, steps = seeds(0, 1)[0], runner.told["steps"]
    latents, ours = [], []
    if not isinstance(pipeline.scheduler, (DDIMScheduler, RenoisingScheduler)):
        pipeline.scheduler = scheduler_for("ddim", pipeline.scheduler)

    def keep(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents.append(tensors["latents"].numpy())
        return {}

    pipeline.set_progress_bar_config(disable=True)
    wanted = pipeline(
        [prompt],
        num_inference_steps=steps,
        guidance_scale=model.guidance,
        generator=[torch.Generator().manual_seed(seed)],
        output_type="np",
        callback_on_step_end=keep,
        height=model.resolution,
        width=model.resolution,
    ).images
    random = torch.Generator().manual_seed(seed)
    draws = [randn_tensor((1, *runner.latent), generator=[random]) for _ in range(runner.schedule.draws(steps))]
    noise = torch.stack(draws, dim=1).numpy()
    found = runner.images([prompt], noise=noise, on_step=lambda _, __, x: ours.append(x))
    by_step = [compare([left], [right]).told() for left, right in zip(latents, ours, strict=True)]
    image: Parity = compare([(wanted * 255).round() / 255], [found / 255], span=1.0)
    return {"prompt": prompt, "steps": by_step, "image": image.told()}
