"""From a recipe to what the loop trains: networks, objective, examples, and the folders that a finished run gives."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mdrepro.core.errors import BadInput, unknown
from mdrepro.data import sources
from mdrepro.data.examples import Examples
from mdrepro.models import text
from mdrepro.models.mobilediffusion import vae
from mdrepro.models.mobilediffusion.discriminator import LOGITS, UNETS, Discriminator
from mdrepro.models.mobilediffusion.unet import with_guidance_input
from mdrepro.training.engine import loop, processes
from mdrepro.training.engine.objective import Objective
from mdrepro.training.objectives.encoding import Encoding
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import latent_cache
from mdrepro.training.runs.model_folders import Parts

UNET = "MobileDiffusionUNet"
"""The class of denoisers, where a recipe names no other."""

OBJECTIVES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "reader": ("reader", "Reading"),
        "clip": ("contrastive", "Contrastive"),
        "autoencoder": ("autoencoder", "Autoencoding"),
        "decoder": ("decoder_distillation", "LiteDecoder"),
        "synthetic": ("synthetic", "SyntheticLatents"),
        "text": ("contrastive", "Contrastive"),
        "diffusion": ("diffusion", "Diffusion"),
        "relu": ("diffusion", "Diffusion"),
        "steps": ("step_distillation", "StepDistillation"),
        "progressive": ("progressive", "ProgressiveDistillation"),
        "guidance": ("guidance_distillation", "GuidanceDistillation"),
        "conditioned": ("guidance_distillation", "ConditionedProgressiveDistillation"),
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
    recipe: Recipe,
    parents: Mapping[str, Parts],
    folder: Path,
    latents: Path,
    *,
    resume: bool = True,
    max_seconds: float | None = None,
) -> Made:
    """Train a recipe in ``folder``, with latents and text features in ``latents``; others as in `loop.train`."""
    if recipe.kind == "evolution":
        from mdrepro.training.evolution import run as evolving

        return evolving.run(recipe, parents, folder, latents, resume=resume, max_seconds=max_seconds)
    torch.manual_seed(recipe.loop.seed)
    training = build(recipe, parents, latents)
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


def build(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    """Networks with their first weights (drawn from torch's global generator), objective and examples.

    Args:
        recipe: the run.
        parents: by role.
        folder: for latents and text features.

    Raises:
        BadInput: a setting that is not allowed.
        NotAttempted: data or pretrained weights are not here.
    """
    makers: Mapping[str, Callable[[Recipe, Mapping[str, Parts], Path], Training]] = {
        "reader": _reader,
        "clip": _clip,
        "autoencoder": _autoencoder,
        "decoder": _decoder,
        "synthetic": _synthetic,
        "text": _text,
    }
    return makers.get(recipe.kind, _denoiser)(recipe, parents, folder)


def objective_class(kind: str) -> Any:
    module, name = OBJECTIVES[kind]
    return getattr(importlib.import_module(f"mdrepro.training.objectives.{module}"), name)


def _reader(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    from mdrepro.models.scenes.reader import SceneReader

    reader = SceneReader(**recipe.network)
    return Training(
        objective_class("reader")(reader), sources.examples(recipe.data), lambda nets: {"reader": nets["reader"]}
    )


def _clip(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    from mdrepro.models.scenes.clip import SceneClip

    clip = SceneClip(**recipe.network)
    widths = {name: clip.config[name] for name in ("features", "image_width")}
    objective = objective_class("clip")(clip.tokenizer, clip.text.encoder, **widths, **recipe.options)
    return Training(objective, sources.examples(recipe.data), lambda nets: {"clip": clip.of(nets)})


def _autoencoder(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    from mdrepro.training.objectives.autoencoder import Terms

    model, examples = vae.build(**recipe.network), sources.examples(recipe.data)
    vae.start_as_averages(model)
    options = dict(recipe.options)
    extra = {"kl": options.pop("kl")} if "kl" in options else {}
    objective = objective_class("autoencoder")(model, Terms(**options), **extra)
    return Training(objective, examples, lambda nets: {"vae": objective.finish(nets, examples)})


def _decoder(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    from mdrepro.training.objectives.autoencoder import Terms

    student, examples = vae.build(**recipe.network), sources.examples(recipe.data)
    vae.start_as_averages(student)
    objective = objective_class("decoder")(student, parents["vae"].load("vae"), Terms(**recipe.options))
    return Training(objective, examples, lambda nets: {"vae": objective.finish(nets)})


def _synthetic(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    from mdrepro.training.objectives import synthetic

    teacher, tokenizer, encoder = encoders(parents)
    with torch.no_grad():
        null_text = text.encode(tokenizer, encoder, [""])[0]
    given = (parents["unet"].load("unet"), scheduler(recipe, parents), null_text, tokenizer, encoder)
    student = synthetic.pruned(teacher, **recipe.network)
    objective = objective_class("synthetic")(student, teacher, *given, **recipe.options)
    return Training(objective, sources.examples(recipe.data), lambda nets: {"vae": objective.finish(nets)})


def _text(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    from mdrepro.data import shapes

    tokenizer = text.word_tokenizer(shapes.VOCABULARY, shapes.TOKENS)
    encoder = text.small_encoder(tokenizer, **recipe.network)
    objective = objective_class("text")(tokenizer, encoder, **recipe.options)
    return Training(
        objective,
        sources.examples(recipe.data),
        lambda nets: {"text_encoder": objective.finish(nets), "tokenizer": tokenizer},
    )


def _denoiser(recipe: Recipe, parents: Mapping[str, Parts], folder: Path) -> Training:
    """All objectives on latents and text features."""
    unet, levels, parts = denoiser(recipe, parents), scheduler(recipe, parents), encoders(parents)
    examples = encoded(recipe.data, parts, folder)
    with torch.no_grad():
        null_text = text.encode(*parts[1:], [""])[0]
    objective = _on_latents(recipe, parents, unet, levels, null_text)
    name = "generator" if recipe.kind == "gan" else "unet"
    sampler = _sampler(recipe, levels)
    return Training(
        on_batches(objective, recipe.data, parts),
        examples,
        lambda nets: {"unet": nets[name], "scheduler": sampler},
    )


def _on_latents(
    recipe: Recipe, parents: Mapping[str, Parts], unet: Any, scheduler: Any, null_text: Tensor
) -> Objective:
    kind, options = objective_class(recipe.kind), dict(recipe.options)
    made: Objective
    if recipe.kind == "gan":
        discriminator = Discriminator.from_unet(unet, options.pop("logits", LOGITS[0]))
        made = kind(unet, discriminator, scheduler, **options)
        return made
    teachers = []
    if "teacher" in inspect.signature(kind).parameters:
        teachers.append(parents.get("teacher", parents["unet"]).load("unet"))
    if recipe.kind == "guidance":
        unet = with_guidance_input(unet)
    if recipe.kind == "relu":
        unet.set_attention("relu", options.pop("relu_scaling", None))
    made = kind(unet, *teachers, scheduler, null_text, **options)
    return made


def encoders(parents: Mapping[str, Parts]) -> tuple[Any, Any, Any]:
    """Autoencoder, tokenizer and text encoder."""
    return parents["vae"].load("vae"), parents["text"].load("tokenizer"), parents["text"].load("text_encoder")


def encoded(data: Mapping[str, Any], encoders: tuple[Any, Any, Any], folder: Path) -> Examples:
    """What frozen encoders make of pictures and captions, made once; or pictures and captions, without a cache.

    Args:
        data: see `mdrepro.data.sources`.
        encoders: as `encoders` gives them.
        folder: for the cache.
    """
    examples = sources.examples(data)
    if not data.get("cache", True):
        return examples
    vae, tokenizer, encoder = encoders
    device = processes.start().device
    return latent_cache.build(examples, vae.to(device), tokenizer, encoder.to(device), folder)


def on_batches(objective: Objective, data: Mapping[str, Any], encoders: tuple[Any, Any, Any]) -> Objective:
    """An objective of latents and text features on what `encoded` gives: without a cache the encoders go before it."""
    return objective if data.get("cache", True) else Encoding(objective, *encoders)


def denoiser(recipe: Recipe, parents: Mapping[str, Parts]) -> Any:
    """The network to train: a parent's, or a new one.

    Raises:
        BadInput: an unknown class, or one that a parent's network is not and cannot become.
    """
    arguments = dict(recipe.network)
    if "unet" in parents:
        return _of_class(parents["unet"].load("unet"), arguments.get("class"), recipe.name)
    kind = arguments.pop("class", UNET)
    if kind not in UNETS:
        raise unknown("network.class", kind, UNETS)
    return getattr(importlib.import_module(UNETS[kind]), kind)(**arguments)


def _of_class(unet: Any, kind: str | None, named: str) -> Any:
    have = type(unet).__name__
    if kind == "EvolvableUNet" and have == "UNet2DConditionModel":
        from mdrepro.models.snapfusion.evolvable import EvolvableUNet

        return EvolvableUNet.of(unet, f"the network that {named} begins with")
    if kind not in (None, have):
        raise BadInput(f"{named} begins with a {have}: allowed as network.class are {have}, and EvolvableUNet for SD's")
    return unet


def scheduler(recipe: Recipe, parents: Mapping[str, Parts]) -> Any:
    """The noise levels to train with, as a DDIMScheduler."""
    from diffusers import DDIMScheduler

    if recipe.noise or "unet" not in parents:
        return DDIMScheduler(**recipe.noise)
    return DDIMScheduler.from_config(parents["unet"].load("scheduler").config)


def _sampler(recipe: Recipe, scheduler: Any) -> Any:
    """The scheduler that the trained network is sampled with."""
    if recipe.kind == "gan":
        from mdrepro.diffusion.renoise import RenoisingScheduler

        return RenoisingScheduler.from_config(scheduler.config)
    if recipe.kind == "consistency":
        from diffusers import LCMScheduler

        steps = recipe.options.get("solver_steps", 50)
        return LCMScheduler.from_config(scheduler.config, original_inference_steps=steps, timestep_spacing="leading")
    return scheduler
