"""Where trained autoencoders are kept: found again by a hash of recipe, photographs and code, or else trained."""

import fcntl
import hashlib
import inspect
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256
from mdrepro.core.watchdog import follow
from mdrepro.data import photos, pixels
from mdrepro.models import autoencoders, latents
from mdrepro.models.mobilediffusion import vae
from mdrepro.training.engine import config, determinism, draws, feed, loop, muon, optimisers
from mdrepro.training.objectives import autoencoder, decoder_distillation
from mdrepro.training.photos import autoencoders as photo_autoencoders
from mdrepro.training.photos.autoencoders import WEIGHTS, Recipe, Record, Trained, train, versions

RECORD = "training.json"
CODE = (
    *(photos, pixels, vae, autoencoders, latents, photo_autoencoders, autoencoder, decoder_distillation),
    *(loop, config, draws, feed, optimisers, muon, determinism),
)
"""What the weights rest on."""


def load_or_train(
    recipe: Recipe, folder: Path, photographs: Sequence[photos.Photograph], encoder: Trained | None = None
) -> Trained:
    """The stored run of this recipe on these photographs with this code, or else a new one, which is then stored.

    It lies in ``folder/<row>-<key>/`` as a diffusers model beside ``training.json``; the folder is written aside
    and renamed when it is complete, so a killed run leaves nothing that could be taken for it. What the loop kept, in
    ``folder/.<row>-<key>/``, is gone on from.

    Args:
        recipe: the run.
        folder: where checkpoints are kept.
        photographs: the training photographs.
        encoder: as in :func:`train`, as this function returned it.

    Raises:
        BadInput: as :func:`train`; or another process trains the same.
    """
    place = _place(recipe, folder, photographs, encoder)
    stored = _load(place)
    if stored is not None:
        print(f"{recipe.row}: taken from {paths.relative(place)} ({stored.record.seconds:.0f} s of training)")
        return stored
    with _alone(place) as run:
        trained = train(recipe, [p.pixels() for p in photographs], encoder.model if encoder else None, run)
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


@contextmanager
def _alone(place: Path) -> Iterator[Path]:
    """The loop's folder for a checkpoint that is to be, for this process alone; removed after success."""
    run = place.with_name(f".{place.name}")
    run.mkdir(parents=True, exist_ok=True)
    with open(run / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another process trains {paths.relative(place)}: wait for it or end it") from None
        yield run
        shutil.rmtree(run)


def _key(recipe: Recipe, photographs: Sequence[photos.Photograph], encoder: Trained | None) -> str:
    """12 hexadecimal digits that change with recipe, photographs, encoder, code or library versions."""
    assert encoder is None or encoder.folder is not None
    parts = {
        "recipe": asdict(recipe),
        "photographs": [sha256(p.path) for p in photographs],
        "encoder": encoder.folder.name if encoder and encoder.folder else None,
        "code": [inspect.getsource(module) for module in CODE],
        "versions": versions(),
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
            "photographs": {p.origin: sha256(p.path) for p in photographs},
            "weights_sha256": sha256(aside / WEIGHTS),
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
    if told["weights_sha256"] != sha256(place / WEIGHTS):
        print(f"{paths.relative(place)}: the weights are not those recorded; training again")
        return None
    model = vae.Autoencoder.from_pretrained(place, use_safetensors=True, low_cpu_mem_usage=False)
    model = model.to(memory_format=torch.channels_last).eval().requires_grad_(False)
    return Trained(model=model, record=Record(**told["record"]), folder=place)
