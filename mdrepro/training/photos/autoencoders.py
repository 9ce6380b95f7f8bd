"""Small autoencoders trained on random crops of photographs: squared error and KL, the same bits every time.

MobileDiffusion trains its autoencoder with reconstruction, KL, perceptual and adversarial terms, and its lite decoder
with the encoder fixed. The perceptual term needs backbone weights that packages do not ship; it and the adversarial
term are left out here, and what remains is trained with `mdrepro.training.objectives.autoencoder` on the one loop.

Expect at the notebook's defaults (width 16, 400 steps, one thread each, two cores to themselves): 12 crops a second for
`sd`, 14 for `ours`, 50 for `ours-lite`, whose encoder is fixed.
"""

import hashlib
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from mdrepro.core.errors import BadInput
from mdrepro.data import photos
from mdrepro.data.examples import Batch
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine import loop
from mdrepro.training.engine.config import PRECISIONS, LoopConfig
from mdrepro.training.engine.determinism import surroundings
from mdrepro.training.objectives.autoencoder import SCALE_IMAGES, Autoencoding, Terms
from mdrepro.training.objectives.decoder_distillation import LiteDecoder

WEIGHTS = "diffusion_pytorch_model.safetensors"
CHECKPOINT_EVERY = 100  # steps
SQUARED = Terms(power=2, perceptual=0, adversarial=0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; together with the photographs it determines every bit of the weights on one machine.

    Args:
        row: a row of :data:`mdrepro.models.mobilediffusion.vae.FAMILY`.
        width: channels of the encoder's finest level.
        crop: height and width of the training crops, px; a multiple of 8.
        batch: crops a step.
        steps: optimiser steps.
        learning_rate: highest rate of Muon, reached after ``warmup``, and lowered to 0 by a cosine in ``finish``.
        seed: of initial weights, crops and latent noise.
        threads: CPU threads of torch; another number may give other bits.
        precision: "fp32", or "bf16" (autocast); they give different numbers, and bf16 is fast only on CPUs that
            have instructions for it.
        kl_weight: of the KL divergence per pixel value (1e-6 is latent diffusion's).
        warmup: share of the steps.
        finish: share of the steps, the last ones, with crops of twice the size and half the batch, so that norms
            and attention come to see areas more like the tiles that are measured; see `stages`.
        clip: greatest norm of the gradient.
        weight_decay: of Muon.
    """

    row: str
    width: int
    crop: int
    batch: int
    steps: int
    learning_rate: float
    seed: int = 0
    threads: int = 1
    precision: str = "fp32"
    kl_weight: float = 1e-6
    warmup: float = 0.05
    finish: float = 0.3
    clip: float = 1.0
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        if self.row not in vae.FAMILY:
            raise BadInput(f"row {self.row}: one of {', '.join(vae.FAMILY)}")
        if self.width % 8 or self.width < 8:
            raise BadInput(f"width {self.width}: a multiple of 8, from 8")
        if self.crop % 8 or self.crop < 8:
            raise BadInput(f"crop {self.crop}: a multiple of 8, from 8")
        if self.precision not in PRECISIONS:
            raise BadInput(f"precision {self.precision}: one of {', '.join(PRECISIONS)}")
        if min(self.batch, self.steps, self.threads) < 1:
            raise BadInput("batch, steps and threads: at least 1")
        if not 0 <= self.finish <= 1:
            raise BadInput(f"finish {self.finish}: a share from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Record:
    """What happened in a training run.

    Args:
        losses: the reconstruction error (mean squared, pixels in [-1, 1]) of each step.
        seconds, steps, images_per_second: of the optimisation alone; an image is a crop.
        parameters: how many were trained.
        machine: processor architecture, its vector instructions, and the versions that the bits depend on.
    """

    losses: list[float]
    seconds: float
    steps: int
    images_per_second: float
    parameters: int
    machine: str


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained autoencoder in eval mode, its record, and its folder once it is stored."""

    model: vae.Autoencoder
    record: Record
    folder: Path | None = None

    @property
    def weights(self) -> Path:
        """The stored safetensors file."""
        assert self.folder is not None, "only what load_or_train returns is stored"
        return self.folder / WEIGHTS


@dataclass(frozen=True)
class Stage:
    """A run of the loop: height and width of its crops in px, and how they are trained on."""

    crop: int
    config: LoopConfig


def stages(recipe: Recipe) -> list[Stage]:
    """The runs of a recipe, one after the other on the same weights; see ``Recipe.finish``.

    The rate warms up in the first, and falls to 0 by a cosine in the last; between it is constant. Each begins without
    momentum.
    """
    first = round((1 - recipe.finish) * recipe.steps)
    plan = [
        (recipe.crop, recipe.batch, first),
        (2 * recipe.crop, max(1, recipe.batch // 2), recipe.steps - first),
    ]
    plan = [stage for stage in plan if stage[2]]
    return [
        Stage(
            crop,
            LoopConfig(
                steps=steps,
                batch=batch,
                learning_rate=recipe.learning_rate,
                optimiser="muon",
                weight_decay=recipe.weight_decay,
                clip=recipe.clip,
                warmup=max(1, round(recipe.warmup * recipe.steps)) if place == 0 else 0,
                decay="cosine" if place == len(plan) - 1 else "constant",
                precision=recipe.precision,
                seed=2 * recipe.seed + place,
                threads=recipe.threads,
                checkpoint_every=CHECKPOINT_EVERY,
                log_every=1,
            ),
        )
        for place, (crop, batch, steps) in enumerate(plan)
    ]


class Crops:
    """Examples: random crops of photographs, each a function of its index alone; key ``pixels``.

    Args:
        images: uint8 pictures (3, h, w).
        size: height and width of a crop, px.
        count: crops.
        seed: of their choice.
    """

    def __init__(self, images: Sequence[Tensor], size: int, count: int, seed: int) -> None:
        self.images, self.size, self.count, self.seed = images, size, count, seed
        digest = hashlib.sha256(f"{size} {count} {seed}".encode())
        for image in images:
            digest.update(str(tuple(image.shape)).encode())
            digest.update(image.numpy().tobytes())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> Batch:
        return {"pixels": torch.cat([self._crop(index) for index in indices])}

    def _crop(self, index: int) -> Tensor:
        address = hashlib.blake2b(f"{self.seed} {self.size} {index}".encode(), digest_size=8)
        chance = torch.Generator().manual_seed(int.from_bytes(address.digest()) >> 1)
        return photos.random_crops(self.images, self.size, 1, chance)


def train(
    recipe: Recipe, images: Sequence[Tensor], encoder: vae.Autoencoder | None = None, folder: Path | None = None
) -> Trained:
    """Train an autoencoder, or its decoder alone.

    Args:
        recipe: the run.
        images: uint8 pictures (3, h, w), at least twice ``recipe.crop`` high and wide.
        encoder: a trained autoencoder whose encoder is taken, fixed, with its scaling factor; needed for rows
            with ``encoder_of``.
        folder: where the loop keeps its checkpoints, and goes on from them; none are kept without.

    Raises:
        BadInput: an encoder is missing or not wanted, or a picture is smaller than two crops.
        FloatingPointError: the loss is no longer a finite number.
    """
    if (encoder is None) != (vae.FAMILY[recipe.row].encoder_of is None):
        raise BadInput(f"{recipe.row}: give the trained encoder exactly when the row has encoder_of")
    if min(min(image.shape[1:]) for image in images) < 2 * recipe.crop:
        raise BadInput(f"crop {recipe.crop}: at most half the height and width of the smallest photograph")
    if folder is None:
        with tempfile.TemporaryDirectory() as aside:
            return train(recipe, images, encoder, Path(aside))
    with surroundings(recipe.threads):
        torch.manual_seed(recipe.seed)
        model = vae.build(recipe.row, recipe.width)
        vae.start_as_averages(model)
        model = model.to(memory_format=torch.channels_last)
        objective = (
            Autoencoding(model, SQUARED, kl=recipe.kl_weight)
            if encoder is None
            else LiteDecoder(model, encoder, SQUARED)
        )
        record = _optimise(objective, recipe, images, folder)
        if isinstance(objective, Autoencoding):
            objective.finish(objective.networks, Crops(images, recipe.crop, SCALE_IMAGES, recipe.seed))
        else:
            objective.finish(objective.networks)
    return Trained(model=model, record=record)


def _optimise(objective: Autoencoding | LiteDecoder, recipe: Recipe, images: Sequence[Tensor], folder: Path) -> Record:
    parameters = sum(p.numel() for network in objective.networks.values() for p in network.parameters())
    losses: list[float] = []
    seconds, crops = 0.0, 0
    for stage in stages(recipe):
        how = stage.config
        print(f"{recipe.row}: {how.steps} steps of {how.batch} crops of {stage.crop} px", flush=True)
        count = how.steps * how.batch
        examples = Crops(images, stage.crop, count, recipe.seed)
        try:
            outcome = loop.train(objective, examples, how, folder / f"crops-{stage.crop}")
        except loop.Diverged as error:
            raise loop.Diverged(f"{recipe.row}: {error}") from error
        losses += [row[f"{objective.name}/reconstruction"] for row in outcome.losses]
        seconds, crops = seconds + outcome.seconds, crops + count
    return Record(
        losses=losses,
        seconds=round(seconds, 3),
        steps=recipe.steps,
        images_per_second=round(crops / seconds, 3),
        parameters=parameters,
        machine=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {versions()}",
    )


def versions() -> str:
    """Of the libraries that the bits depend on."""
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers"))
