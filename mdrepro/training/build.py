"""From a recipe to what the loop trains: networks, objective, examples, and the folders that a finished run gives."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from mdrepro.errors import unknown
from mdrepro.models import latents, text, vae
from mdrepro.models.discriminator import LOGITS, UNETS, Discriminator
from mdrepro.training import loop, sources
from mdrepro.training.objective import Examples, Objective
from mdrepro.training.parts import Parts
from mdrepro.training.recipe import Recipe

UNET = "MobileDiffusionUNet"
"""The class of denoisers, where a recipe names no other."""

OBJECTIVES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "reader": ("reading", "Reading"),
        "autoencoder": ("autoencoder", "Autoencoding"),
        "decoder": ("decoder_distillation", "LiteDecoder"),
        "text": ("contrastive", "Contrastive"),
        "diffusion": ("diffusion", "Diffusion"),
        "relu": ("diffusion", "Diffusion"),
        "steps": ("step_distillation", "StepDistillation"),
        "progressive": ("progressive", "ProgressiveDistillation"),
        "consistency": ("consistency", "ConsistencyDistillation"),
        "gan": ("diffusion_gan", "DiffusionGAN"),
        "robust": ("robust", "RobustDiffusion"),
    }
)
"""Module and class of each kind's objective."""


@dataclass(frozen=True)
class Training:
    """What a recipe comes to.

    Args:
        objective, examples: for the loop.
        finish: from the loop's networks to what is stored, by folder.
    """

    objective: Objective
    examples: Examples
    finish: Callable[[Mapping[str, nn.Module]], dict[str, Any]]


@dataclass(frozen=True)
class Made:
    """What training came to.

    Args:
        parts: what is stored, by folder.
        files: texts that are stored too, by name.
        parameters: how many were trained.
        losses: the curve; see `loop.Outcome`.
        steps, seconds, images_per_second: of the loop.
        finished: False where time ran out; then there are no parts.
    """

    parts: Mapping[str, Any]
    files: Mapping[str, str]
    parameters: int
    losses: Sequence[dict[str, float]]
    steps: int
    seconds: float
    images_per_second: float
    finished: bool


def run(
    recipe: Recipe, parents: Mapping[str, Parts], folder: Path, *, resume: bool = True, max_seconds: float | None = None
) -> Made:
    """Train a recipe in ``folder``; arguments as in `build` and `loop.train`."""
    torch.manual_seed(recipe.loop.seed)
    training = build(recipe, parents, folder.parents[2] / "cache")
    outcome = loop.train(
        training.objective, training.examples, recipe.loop, folder, resume=resume, max_seconds=max_seconds
    )
    return Made(
        parts=training.finish(outcome.networks) if outcome.finished else {},
        files={},
        parameters=sum(p.numel() for network in outcome.networks.values() for p in network.parameters()),
        losses=outcome.losses,
        steps=outcome.steps,
        seconds=outcome.seconds,
        images_per_second=outcome.images_per_second,
        finished=outcome.finished,
    )


def build(recipe: Recipe, parents: Mapping[str, Parts], cache: Path) -> Training:
    """Networks with their first weights (drawn from torch's global generator), objective and examples.

    Args:
        recipe: the run.
        parents: by role.
        cache: a folder for latents and text features.

    Raises:
        BadInput: a setting that is not allowed.
        NotAttempted: data or pretrained weights are not here.
    """
    makers: Mapping[str, Callable[[Recipe, Mapping[str, Parts], Path], Training]] = {
        "reader": _reader,
        "autoencoder": _autoencoder,
        "decoder": _decoder,
        "text": _text,
    }
    return makers.get(recipe.kind, _denoiser)(recipe, parents, cache)


def objective_class(kind: str) -> Any:
    module, name = OBJECTIVES[kind]
    return getattr(importlib.import_module(f"mdrepro.training.{module}"), name)


def _reader(recipe: Recipe, parents: Mapping[str, Parts], cache: Path) -> Training:
    from mdrepro.metrics.scenes import SceneReader

    reader = SceneReader(**recipe.network)
    return Training(
        objective_class("reader")(reader), sources.examples(recipe.data), lambda nets: {"reader": nets["reader"]}
    )


def _autoencoder(recipe: Recipe, parents: Mapping[str, Parts], cache: Path) -> Training:
    from mdrepro.training.autoencoder import Terms

    model, examples = vae.build(**recipe.network), sources.examples(recipe.data)
    vae.start_as_averages(model)
    options = dict(recipe.options)
    extra = {"kl": options.pop("kl")} if "kl" in options else {}
    objective = objective_class("autoencoder")(model, Terms(**options), **extra)
    return Training(objective, examples, lambda nets: {"vae": objective.finish(nets, examples)})


def _decoder(recipe: Recipe, parents: Mapping[str, Parts], cache: Path) -> Training:
    from mdrepro.training.autoencoder import Terms

    student, examples = vae.build(**recipe.network), sources.examples(recipe.data)
    vae.start_as_averages(student)
    objective = objective_class("decoder")(student, parents["vae"].load("vae"), Terms(**recipe.options))
    return Training(objective, examples, lambda nets: {"vae": objective.finish(nets)})


def _text(recipe: Recipe, parents: Mapping[str, Parts], cache: Path) -> Training:
    from mdrepro.data import shapes

    tokenizer = text.word_tokenizer(shapes.VOCABULARY, shapes.TOKENS)
    encoder = text.small_encoder(tokenizer, **recipe.network)
    objective = objective_class("text")(tokenizer, encoder, **recipe.options)
    return Training(
        objective,
        sources.examples(recipe.data),
        lambda nets: {"text_encoder": objective.finish(nets), "tokenizer": tokenizer},
    )


def _denoiser(recipe: Recipe, parents: Mapping[str, Parts], cache: Path) -> Training:
    """All objectives on latents and text features."""
    unet, scheduler = _unet(recipe, parents), _scheduler(recipe, parents)
    tokenizer, encoder = parents["text"].load("tokenizer"), parents["text"].load("text_encoder")
    with torch.inference_mode():
        null_text = text.encode(tokenizer, encoder, [""])[0].clone()
    options, name = dict(recipe.options), "unet"
    networks = [unet]
    if recipe.kind == "gan":
        networks.append(Discriminator.from_unet(unet, options.pop("logits", LOGITS[0])))
        objective, name = objective_class("gan")(*networks, scheduler, **options), "generator"
    else:
        if "teacher" in inspect.signature(objective_class(recipe.kind)).parameters:
            networks.append(parents.get("teacher", parents["unet"]).load("unet"))
        if recipe.kind == "relu":
            unet.set_attention("relu", options.pop("relu_scaling", None))
        objective = objective_class(recipe.kind)(*networks, scheduler, null_text, **options)
    examples = _encoded(recipe, parents, cache)
    sampler = _sampler(recipe.kind, scheduler)
    return Training(objective, examples, lambda nets: {"unet": nets[name], "scheduler": sampler})


def _unet(recipe: Recipe, parents: Mapping[str, Parts]) -> Any:
    if "unet" in parents:
        return parents["unet"].load("unet")
    arguments = dict(recipe.network)
    kind = arguments.pop("class", UNET)
    if kind not in UNETS:
        raise unknown("network.class", kind, UNETS)
    return getattr(importlib.import_module(UNETS[kind]), kind)(**arguments)


def _scheduler(recipe: Recipe, parents: Mapping[str, Parts]) -> Any:
    """The noise levels to train with, as a DDIMScheduler."""
    from diffusers import DDIMScheduler

    if recipe.noise or "unet" not in parents:
        return DDIMScheduler(**recipe.noise)
    return DDIMScheduler.from_config(parents["unet"].load("scheduler").config)


def _sampler(kind: str, scheduler: Any) -> Any:
    """The scheduler that the trained network is sampled with."""
    if kind == "gan":
        from mdrepro.models.renoise import RenoisingScheduler

        return RenoisingScheduler.from_config(scheduler.config)
    if kind == "consistency":
        from diffusers import LCMScheduler

        return LCMScheduler.from_config(scheduler.config)
    return scheduler


class _Encoded:
    """Latents and text features of captioned pictures, all made beforehand and held in memory."""

    def __init__(self, examples: Examples, model: Any, tokenizer: Any, encoder: Any, batch: int = 256) -> None:
        self.fingerprint = examples.fingerprint
        kept, said = [], []
        with torch.inference_mode():
            for start in range(0, len(examples), batch):
                found = examples.batch(range(start, min(start + batch, len(examples))))
                kept.append(latents.to_latent(model, found["pixels"], "uint8"))
                said.append(text.encode(tokenizer, encoder, found["caption"]).half())
        self.latent, self.text = torch.cat(kept).clone(), torch.cat(said).clone()

    def __len__(self) -> int:
        return len(self.latent)

    def batch(self, indices: Any) -> dict[str, Any]:
        rows = list(indices)
        return {"latent": self.latent[rows], "text": self.text[rows].float()}


def _encoded(recipe: Recipe, parents: Mapping[str, Parts], cache: Path) -> Examples:
    parts = parents["vae"].load("vae"), parents["text"].load("tokenizer"), parents["text"].load("text_encoder")
    return _Encoded(sources.examples(recipe.data), *parts)
