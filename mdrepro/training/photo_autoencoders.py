"""Training of the small autoencoders: reconstruction and KL, on random crops, the same bits every time.

MobileDiffusion trains its autoencoder with reconstruction, KL, perceptual and adversarial terms, and its lite decoder
with the encoder fixed. The perceptual term needs backbone weights that packages do not ship; it and the adversarial
term are left to the full trainer. What remains is trained here: mean squared error plus a little KL.

Expect at the notebook's defaults (width 16, 400 steps, one thread each, two cores to themselves): 12 crops a second for
`sd`, 14 for `ours`, 50 for `ours-lite`, whose encoder is fixed.
"""

import hashlib
import inspect
import json
import math
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from mdrepro import paths
from mdrepro.data import photos
from mdrepro.errors import BadInput
from mdrepro.models import vae
from mdrepro.training import muon
from mdrepro.training.autoencoder import kl_loss, reconstruction_loss
from mdrepro.watchdog import follow

PRECISIONS = ("fp32", "bf16")
PROGRESS_SECONDS = 5.0
WEIGHTS, RECORD = "diffusion_pytorch_model.safetensors", "training.json"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run; together with the photographs it determines every bit of the weights on one machine.

    Args:
        row: a row of :data:`mdrepro.models.vae.FAMILY`.
        width: channels of the encoder's finest level.
        crop: height and width of the training crops, px; a multiple of 8.
        batch: crops a step.
        steps: optimiser steps.
        learning_rate: highest rate of Muon, reached after ``warmup`` and lowered to 0 by a cosine.
        seed: of initial weights, crops and latent noise.
        threads: CPU threads of torch; another number may give other bits.
        precision: "fp32", or "bf16" (autocast); they give different numbers, and bf16 is fast only on CPUs that
            have instructions for it.
        kl_weight: of the KL divergence per pixel value (1e-6 is latent diffusion's).
        warmup: share of the steps.
        finish: share of the steps, the last ones, with crops of twice the size and half the batch, so that norms
            and attention come to see areas more like the tiles that are measured.
        clip: greatest norm of the gradient.
        momentum, weight_decay: of Muon.
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
    momentum: float = 0.95
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


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then a cosine to 0; ``step`` counts from 0."""
    warm = max(1, round(recipe.warmup * recipe.steps))
    if step < warm:
        return recipe.learning_rate * (step + 1) / warm
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def crops_at(step: int, recipe: Recipe) -> tuple[int, int]:
    """Height (= width, px) and number of the crops of a step that counts from 0; see ``Recipe.finish``."""
    if step < round((1 - recipe.finish) * recipe.steps):
        return recipe.crop, recipe.batch
    return 2 * recipe.crop, max(1, recipe.batch // 2)


def train(recipe: Recipe, images: Sequence[Tensor], encoder: vae.Autoencoder | None = None) -> Trained:
    """Train an autoencoder, or its decoder alone.

    Args:
        recipe: the run.
        images: uint8 pictures (3, h, w), at least twice ``recipe.crop`` high and wide.
        encoder: a trained autoencoder whose encoder is taken, fixed, with its scaling factor; needed for rows
            with ``encoder_of``.

    Raises:
        BadInput: an encoder is missing or not wanted, or a picture is smaller than two crops.
        FloatingPointError: the loss is no longer a finite number.
    """
    if (encoder is None) != (vae.FAMILY[recipe.row].encoder_of is None):
        raise BadInput(f"{recipe.row}: give the trained encoder exactly when the row has encoder_of")
    if min(min(image.shape[1:]) for image in images) < 2 * recipe.crop:
        raise BadInput(f"crop {recipe.crop}: at most half the height and width of the smallest photograph")
    with _deterministic(recipe):
        model = vae.build(recipe.row, recipe.width)
        vae.start_as_averages(model)
        model = model.to(memory_format=torch.channels_last)
        if encoder is not None:
            _take_encoder(model, encoder)
        record = _optimise(model, recipe, images)
        model.eval().requires_grad_(False)
        if encoder is None:
            model.register_to_config(scaling_factor=_scaling_factor(model, recipe, images))
    return Trained(model=model, record=record)


def load_or_train(
    recipe: Recipe, folder: Path, photographs: Sequence[photos.Photograph], encoder: Trained | None = None
) -> Trained:
    """The stored run of this recipe on these photographs with this code, or else a new one, which is then stored.

    It lies in ``folder/<row>-<key>/`` as a diffusers model beside ``training.json``; the folder is written aside
    and renamed when it is complete, so a killed run leaves nothing that could be taken for a checkpoint.

    Args:
        recipe: the run.
        folder: where checkpoints are kept.
        photographs: the training photographs.
        encoder: as in :func:`train`, as this function returned it.
    """
    place = _place(recipe, folder, photographs, encoder)
    stored = _load(place)
    if stored is not None:
        print(f"{recipe.row}: taken from {paths.relative(place)} ({stored.record.seconds:.0f} s of training)")
        return stored
    trained = train(recipe, [p.pixels() for p in photographs], encoder.model if encoder else None)
    _store(trained, recipe, photographs, place)
    return Trained(model=trained.model, record=trained.record, folder=place)


def load_or_train_all(
    recipes: Mapping[str, Recipe], folder: Path, photographs: Sequence[photos.Photograph]
) -> dict[str, Trained]:
    """:func:`load_or_train` for each recipe, by row; the rows that train both halves do so side by side.

    Each of these has a process of its own, so that with ``threads=1`` every core is used and none waits for another.

    Args:
        recipes: by row; a row's ``encoder_of`` comes before it.
        folder, photographs: as in :func:`load_or_train`.
    """
    whole = [recipe for row, recipe in recipes.items() if vae.FAMILY[row].encoder_of is None]
    missing = [recipe for recipe in whole if _load(_place(recipe, folder, photographs, None)) is None]
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(len(missing), mp_context=context, initializer=follow) as pool:
            for done in [pool.submit(_train_and_store, recipe, folder, photographs) for recipe in missing]:
                done.result()
    trained: dict[str, Trained] = {}
    for row, recipe in recipes.items():
        trained[row] = load_or_train(recipe, folder, photographs, trained.get(vae.FAMILY[row].encoder_of or ""))
    return trained


def _place(recipe: Recipe, folder: Path, photographs: Sequence[photos.Photograph], encoder: Trained | None) -> Path:
    return folder / f"{recipe.row}-{_key(recipe, photographs, encoder)}"


def _train_and_store(recipe: Recipe, folder: Path, photographs: Sequence[photos.Photograph]) -> None:
    load_or_train(recipe, folder, photographs)


def _optimise(model: vae.Autoencoder, recipe: Recipe, images: Sequence[Tensor]) -> Record:
    chance = torch.Generator().manual_seed(recipe.seed)
    fixed = vae.FAMILY[recipe.row].encoder_of is not None
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimiser = muon.Muon(
        trainable, lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    losses: list[float] = []
    began = told = time.monotonic()
    for step in range(recipe.steps):
        size, count = crops_at(step, recipe)
        pixels = photos.random_crops(images, size, count, chance)
        x = photos.to_network(pixels).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.precision == "bf16"):
            with torch.set_grad_enabled(not fixed):
                latent = model.encode(x).latent_dist
            z = latent.mode() if fixed else latent.sample(generator=chance)
            y = model.decode(z).sample
        loss = reconstruction_loss(x, y)
        total = loss if fixed else loss + recipe.kl_weight * kl_loss(latent.mean, latent.logvar, x[0].numel())
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, recipe)
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trainable, recipe.clip)
        optimiser.step()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise FloatingPointError(f"{recipe.row}: the loss is {losses[-1]} at step {step + 1}; lower learning_rate")
        now = time.monotonic()
        if now - told >= PROGRESS_SECONDS or step + 1 == recipe.steps:
            _tell(recipe, losses, now - began)
            told = now
    seconds = time.monotonic() - began
    crops = sum(crops_at(step, recipe)[1] for step in range(recipe.steps))
    return Record(
        losses=losses,
        seconds=round(seconds, 3),
        steps=recipe.steps,
        images_per_second=round(crops / seconds, 3),
        parameters=sum(p.numel() for p in trainable),
        machine=f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {_versions()}",
    )


def _tell(recipe: Recipe, losses: list[float], seconds: float) -> None:
    done, recent = len(losses), losses[-20:]
    crops = [crops_at(step, recipe) for step in range(recipe.steps)]
    pixels = [size**2 * count for size, count in crops]
    left = seconds / sum(pixels[:done]) * sum(pixels[done:])
    speed = sum(count for _, count in crops[:done]) / seconds
    print(
        f"{recipe.row}: step {done}/{recipe.steps}, loss {sum(recent) / len(recent):.4f}, "
        f"{speed:.1f} images/s, {left:.0f} s left",
        flush=True,
    )


def _take_encoder(model: vae.Autoencoder, donor: vae.Autoencoder) -> None:
    for mine, theirs in zip(vae.encoder_parts(model), vae.encoder_parts(donor), strict=True):
        mine.load_state_dict(theirs.state_dict())
        mine.requires_grad_(False)
    model.register_to_config(scaling_factor=donor.config.scaling_factor)


@torch.inference_mode()
def _scaling_factor(model: vae.Autoencoder, recipe: Recipe, images: Sequence[Tensor]) -> float:
    """1 / standard deviation of the latent over 64 training crops."""
    crops = photos.random_crops(images, recipe.crop, 64, torch.Generator().manual_seed(recipe.seed))
    latents = [model.encode(photos.to_network(c)).latent_dist.mode() for c in crops.split(8)]
    return 1 / torch.cat(latents).double().std().item()


@contextmanager
def _deterministic(recipe: Recipe) -> Iterator[None]:
    """Fixed threads and seed inside; torch's own state as it was afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        torch.set_num_threads(recipe.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _versions() -> str:
    return ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers"))


def _key(recipe: Recipe, photographs: Sequence[photos.Photograph], encoder: Trained | None) -> str:
    """12 hexadecimal digits that change with recipe, photographs, encoder, code or library versions."""
    assert encoder is None or encoder.folder is not None
    parts = {
        "recipe": asdict(recipe),
        "photographs": [paths.sha256(p.path) for p in photographs],
        "encoder": encoder.folder.name if encoder and encoder.folder else None,
        "code": [inspect.getsource(module) for module in (photos, vae, muon, sys.modules[__name__])],
        "versions": _versions(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _store(trained: Trained, recipe: Recipe, photographs: Sequence[photos.Photograph], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    try:
        trained.model.save_pretrained(aside)
        told = {
            "recipe": asdict(recipe),
            "record": asdict(trained.record),
            "photographs": {p.origin: paths.sha256(p.path) for p in photographs},
            "weights_sha256": paths.sha256(aside / WEIGHTS),
        }
        (aside / RECORD).write_text(json.dumps(told, indent=1) + "\n")
        aside.chmod(0o755)
        if place.exists():  # incomplete or altered: _load did not take it
            shutil.rmtree(place)
        os.replace(aside, place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _load(place: Path) -> Trained | None:
    """The checkpoint at ``place``, or None unless it is complete and its weights are those recorded."""
    if not ((place / RECORD).is_file() and (place / WEIGHTS).is_file()):
        return None
    told = json.loads((place / RECORD).read_text())
    if told["weights_sha256"] != paths.sha256(place / WEIGHTS):
        print(f"{paths.relative(place)}: the weights are not those recorded; training again")
        return None
    model = vae.Autoencoder.from_pretrained(place, use_safetensors=True, low_cpu_mem_usage=False)
    model = model.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Trained(model=model, record=Record(**told["record"]), folder=place)
