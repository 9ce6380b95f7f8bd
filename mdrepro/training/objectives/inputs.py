"""What an objective is built from, and what training makes of it: from a recipe to networks, examples and results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import torch
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedModel, PreTrainedTokenizerBase

from mdrepro.core.errors import BadInput
from mdrepro.data import sources
from mdrepro.data.examples import Batch, Examples
from mdrepro.data.photos import Crops
from mdrepro.models import denoiser, latents, text
from mdrepro.training.engine import latent_cache, loop, processes
from mdrepro.training.engine.config import LoopConfig
from mdrepro.training.engine.draws import Draws
from mdrepro.training.engine.objective import Networks, Objective
from mdrepro.training.objectives.kinds import Declared, argument_types
from mdrepro.training.recipes.recipe import Recipe

T = TypeVar("T")
UNET = "MobileDiffusionUNet"
"""The class of denoisers, where a recipe names no other."""


class Parts(Protocol):
    """A finished run, or pretrained weights."""

    def load(self, part: str) -> Any:
        """One of `model_folders.KINDS`: a network in eval mode, float32; a tokenizer; a scheduler."""


Stored: TypeAlias = ModelMixin | PreTrainedModel | PreTrainedTokenizerBase | SchedulerMixin
"""What a run stores a part as, by ``save_pretrained``."""


@dataclass(frozen=True)
class Trained:
    """The loop's outcome, the parts to store by folder (none where time ran out), and texts to store by file."""

    outcome: loop.Outcome
    parts: Mapping[str, Stored]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many were trained."""
        return sum(p.numel() for network in self.outcome.networks.values() for p in network.parameters())


class Trainable(Protocol):
    """What a kind builds: a `Training`, or anything else that can be run like one."""

    def run(self, config: LoopConfig, folder: Path, *, resume: bool, max_seconds: float | None) -> Trained:
        """Train in ``folder``; arguments and errors as those of `loop.train`."""


@dataclass(frozen=True)
class Training:
    """An objective and examples for the loop; ``finish`` makes its networks into the parts to store, by folder."""

    objective: Objective
    examples: Examples
    finish: Callable[[Mapping[str, nn.Module]], Mapping[str, Stored]]

    def run(self, config: LoopConfig, folder: Path, *, resume: bool, max_seconds: float | None) -> Trained:
        """See `Trainable`."""
        outcome = loop.train(self.objective, self.examples, config, folder, resume=resume, max_seconds=max_seconds)
        return Trained(outcome, self.finish(outcome.networks) if outcome.finished else {})


class Encoders(NamedTuple):
    """The frozen networks that make latents and text features."""

    vae: AutoencoderKL
    tokenizer: PreTrainedTokenizerBase
    text_encoder: CLIPTextModel

    def null_text(self) -> Tensor:
        """Features of the empty text, (tokens, width)."""
        with torch.no_grad():
            return text.encode(self.tokenizer, self.text_encoder, [""])[0]


class Encoding(Networks):
    """Objective: another one, given the latents and text features that frozen encoders make of each batch.

    Batches need ``pixels`` and ``caption``. What the encoders give is the same as in
    `mdrepro.training.engine.latent_cache`, but for the rounding there.
    """

    def __init__(self, objective: Objective, encoders: Encoders) -> None:
        self.objective, self.encoders, self.phases = objective, encoders, objective.phases
        frozen = {"vae": encoders.vae, "text_encoder": encoders.text_encoder}
        self.keep(objective.networks, {**objective.frozen, **frozen})
        self.ema = objective.ema

    def losses(self, phase: str, batch: Batch, draws: Draws) -> dict[str, Tensor]:
        vae, tokenizer, text_encoder = self.encoders
        with torch.no_grad():
            latent = latents.to_latent(vae, batch["pixels"], "uint8")
            features = text.encode(tokenizer, text_encoder, batch["caption"])
        return self.objective.losses(phase, {**batch, "latent": latent.float(), "text": features.float()}, draws)


@dataclass(frozen=True)
class Inputs:
    """What a recipe gives to its objective: parents by role, and a folder for the cache of latents and text features.

    Random weights are drawn from torch's global generator.
    """

    recipe: Recipe
    parents: Mapping[str, Parts]
    cache: Path

    @property
    def options(self) -> dict[str, Any]:
        """The recipe's options."""
        return dict(self.recipe.options)

    def options_of(self, declared: Declared) -> dict[str, Any]:
        """Those of the recipe's options that one of several classes or functions declares."""
        return {name: value for name, value in self.recipe.options.items() if name in argument_types(declared)}

    def examples(self) -> Examples:
        """Pictures and captions. Raises NotAttempted where photographs are not on this machine."""
        examples = sources.examples(self.recipe.data)
        if isinstance(examples, Crops):
            examples.require()
        return examples

    def denoiser(self) -> ModelMixin:
        """The network to train: the parent ``unet``, or a new one of the class that ``network`` names.

        Raises BadInput for an unknown class, or one that a parent's network is not and cannot become.
        """
        arguments = dict(self.recipe.network)
        if "unet" in self.parents:
            return _of_class(self.parents["unet"].load("unet"), arguments.get("class"), self.recipe.name)
        return denoiser.class_named(arguments.pop("class", UNET), "network.class")(**arguments)

    def teacher(self) -> ModelMixin:
        """The parent ``teacher``, or else ``unet``."""
        return self.parents.get("teacher", self.parents["unet"]).load("unet")

    @cached_property
    def scheduler(self) -> DDIMScheduler:
        """The noise levels to train with: the recipe's, or else the parent's."""
        if self.recipe.noise or "unet" not in self.parents:
            return DDIMScheduler(**self.recipe.noise)
        return DDIMScheduler.from_config(self.parents["unet"].load("scheduler").config)

    @cached_property
    def encoders(self) -> Encoders:
        """Those of the parents ``vae`` and ``text``."""
        vae, texts = self.parents["vae"], self.parents["text"]
        return Encoders(vae.load("vae"), texts.load("tokenizer"), texts.load("text_encoder"))

    @cached_property
    def latents(self) -> Examples:
        """Latents and text features of the recipe's data; see `encoded`."""
        return self.encoded(self.recipe.data, self.cache)

    @cached_property
    def null_text(self) -> Tensor:
        """Features of the empty text, (tokens, width), made where the data's are; without a cache, on the CPU."""
        _ = self.latents  # moves the encoders to the device
        return self.encoders.null_text()

    def encoded(self, data: Mapping[str, Any], folder: Path) -> Examples:
        """What the frozen encoders make of ``data``, kept in ``folder``; without a cache, pictures and captions."""
        examples = sources.examples(data)
        if not data.get("cache", True):
            return examples
        vae, tokenizer, encoder = self.encoders
        device = processes.start().device
        return latent_cache.build(examples, vae.to(device), tokenizer, encoder.to(device), folder)

    def on_batches(self, objective: Objective) -> Objective:
        """An objective of latents and text features on what `encoded` gives: without a cache it encodes first."""
        return objective if self.recipe.data.get("cache", True) else Encoding(objective, self.encoders)

    def student(self, objective: Callable[..., T], change: Callable[[ModelMixin], ModelMixin] | None = None) -> T:
        """An objective of class `progressive.Student`; ``change`` makes the student of what the recipe begins with."""
        unet, teacher = self.denoiser(), self.teacher()
        return objective(change(unet) if change else unet, teacher, self.scheduler, self.null_text, **self.options)

    def on_latents(
        self, objective: Objective, network: str = "unet", scheduler: SchedulerMixin | None = None
    ) -> Training:
        """Training of a denoiser, ``network`` of the objective's, on the recipe's latents and text features.

        ``scheduler`` is stored to sample with; None for the one that it is trained with.
        """
        sampler = scheduler or self.scheduler
        return Training(
            self.on_batches(objective), self.latents, lambda networks: {"unet": networks[network], "scheduler": sampler}
        )


def _of_class(unet: ModelMixin, wanted: str | None, named: str) -> ModelMixin:
    have = type(unet).__name__
    if wanted == "EvolvableUNet" and have == "UNet2DConditionModel":
        from mdrepro.models.snapfusion.evolvable import EvolvableUNet

        return EvolvableUNet.from_diffusers(unet, f"the network that {named} begins with")
    if wanted not in (None, have):
        raise BadInput(f"{named} begins with a {have}: network.class must be {have}, or EvolvableUNet for SD's")
    return unet
