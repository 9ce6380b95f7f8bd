"""Trained runs: found by their recipe's hash, trained where they are missing.

A run lies in ``papermill_runs/<tier>/checkpoints/<recipe>-<hash>/``: while it is trained, in ``work/`` inside; then as
diffusers folders beside ``training.json``, its record. A published one lies in ``results/<tier>/checkpoints/<recipe>/``
with weights in float16.
"""

import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, unknown
from mdrepro.core.files import digest, sha256, sweep
from mdrepro.core.reading import checked, inside, read_json
from mdrepro.core.replicas import split
from mdrepro.data import sources
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import loaded, model_folders, session
from mdrepro.training.runs.model_folders import Pretrained
from mdrepro.training.runs.scratch import from_scratch
from mdrepro.training.runs.session import RECORD

if TYPE_CHECKING:
    from mdrepro.training.objectives.inputs import Parts

UNCOUNTED = ("checkpoint_every", "log_every")  # settings of the loop that leave the weights as they are
SHARED = "shared"
"""In a published run's record: parts whose file lacks the weights that they share with a published parent's."""


@dataclass(frozen=True)
class Run:
    """A finished run: its recipe, the folder where it lies, and its record, ``training.json``."""

    recipe: Recipe
    folder: Path
    record: dict[str, Any]

    @property
    def file(self) -> Path:
        """Its record, which holds the hashes of all its other files: name it where a result rests on this run."""
        return self.folder / RECORD

    @property
    def local(self) -> bool:
        """Whether this machine trained it; otherwise it is a published one."""
        return self.folder.is_relative_to(paths.runs())

    def load(self, part: str) -> Any:
        """One of `model_folders.KINDS`; see `model_folders.load`. Raises BadInput where the run has no such part."""
        if not (self.folder / part).is_dir():
            have = [folder.name for folder in sorted(self.folder.iterdir()) if folder.is_dir()]
            raise unknown(f"part of {self.recipe.name}", part, have)
        shared = self.record.get(SHARED, {}).get(part)
        rest = None if shared is None else published_folder(registry.get(shared["recipe"])) / part
        return loaded.noted(model_folders.load(self.folder / part, part, rest), self)


def key(recipe: Recipe) -> str:
    """12 hexadecimal digits that identify a recipe: its fields, its parents' keys, and its data.

    Not where data and pretrained weights are, how the checkpoint is sampled, or how often the loop logs and saves.
    Raises BadInput for data that cannot be read, NotAttempted where their path is not set.
    """
    return digest(_identified(recipe), compact=False)[:12]


def _identified(recipe: Recipe) -> dict[str, Any]:
    """What counts in a recipe's key. Fields that are empty do not, so that new ones leave old keys as they are."""
    fields = recipe.plain()
    del fields["tier"], fields["sampling"]
    fields["loop"] = {name: value for name, value in fields["loop"].items() if value != {} and name not in UNCOUNTED}
    fields["parents"] = {role: key(registry.get(parent)) for role, parent in recipe.parents.items()}
    fields["pretrained"] = {role: Pretrained(source).digest(role) for role, source in recipe.pretrained.items()}
    fields["data"] = sources.examples(recipe.data).fingerprint
    if not recipe.data.get("cache", True):
        fields["cache"] = False
    return {name: value for name, value in fields.items() if value != {} or name in ("parents", "pretrained")}


def stamp(name: str) -> dict[str, Any]:
    """What a table that rests on this recipe depends on: its key, and how it is sampled."""
    recipe = registry.get(name)
    return {"key": key(recipe), "sampling": recipe.plain()["sampling"]}


def folder(recipe: Recipe) -> Path:
    """Where the run of a recipe lies on this machine."""
    return paths.runs() / recipe.tier / "checkpoints" / f"{recipe.name}-{key(recipe)}"


def _latents(recipe: Recipe) -> Path:
    """Where latents and text features of a recipe's data are kept, for all recipes with the same encoders."""
    fields = _identified(recipe)
    encoders = [[fields[source].get(role) for source in ("parents", "pretrained")] for role in ("vae", "text")]
    return paths.runs() / recipe.tier / "latents" / digest([fields["data"], encoders], compact=False)[:12]


def published_folder(recipe: Recipe) -> Path:
    """Where its published run lies."""
    return paths.published(recipe.tier) / "checkpoints" / recipe.name


def find(recipe: Recipe | str) -> Run | None:
    """The finished run of a recipe: this machine's, or else the published one if it is of the recipe as it stands.

    Published ones are not looked at where `mdrepro.training.runs.scratch` says so. Raises BadInput for an unknown name,
    or a published run that was changed; NotAttempted where its data, and so its key, is not on this machine.
    """
    row = registry.get(recipe)
    if here := read(row, folder(row)):
        if not (bad := altered(here)):
            return here
        print(f"{row.name}: not taken: {paths.relative(here.folder / bad[0])} is not what was written", file=sys.stderr)
    run = None if from_scratch() else published(row)
    if run and (bad := altered(run)):
        file = paths.relative((run.folder / bad[0]).resolve())
        raise BadInput(f"{file} was changed or is gone since it was published; restore it")
    return run


def other_seeds(recipe: Recipe) -> list[int]:
    """The training seeds, apart from the row's own, of which this machine or ``results/`` has a folder."""
    homes = paths.runs() / recipe.tier / "checkpoints", paths.published(recipe.tier) / "checkpoints"
    names = (re.sub("-[0-9a-f]{12}$", "", place.name) for home in homes for place in home.glob(f"{recipe.name}-*"))
    return sorted({seed for own, seed in map(split, names) if own == recipe.name and seed})


def published(recipe: Recipe) -> Run | None:
    """The published run of a recipe as it stands, whether or not its files are what was published."""
    run = read(recipe, published_folder(recipe))
    return run if run and run.record.get("key") == key(recipe) else None


def read(recipe: Recipe, place: Path) -> Run | None:
    """The run in a folder; errors are those of `record`."""
    known = record(place)
    return None if known is None else Run(recipe, place, known)


def record(place: Path) -> dict[str, Any] | None:
    """The record in a run's folder. Raises BadInput where it cannot be read, or names what lies outside."""
    file = place / RECORD
    if not file.exists():
        return None
    try:
        known: dict[str, Any] = read_json(file, dict[str, Any])
        named, shared = known.get("files"), known.get(SHARED, {})
        for name in checked(named, dict[str, str], f"{file}, files"):
            inside(place, name, file)
        for part, entry in checked(shared, dict[str, dict[str, str]], f"{file}, {SHARED}").items():
            if set(entry) != {"recipe", "sha256"} or "/" in entry["recipe"] + part:
                raise BadInput(f"{file}: {SHARED} of {part} is {entry}: expected recipe and sha256")
            inside(place, part, file)
            inside(place.parent, entry["recipe"], file)
    except BadInput as error:
        raise BadInput(f"{error}; remove that folder") from error
    return known


def altered(run: Run) -> list[str]:
    """Files that are gone or not what the record says, those of a parent that it shares weights with included."""
    files = dict(run.record["files"])
    for part, shared in run.record.get(SHARED, {}).items():
        files[f"../{shared['recipe']}/{part}/{model_folders.WEIGHTS}"] = shared["sha256"]
    places = {name: run.folder / name for name in files}
    return [name for name, place in places.items() if not place.is_file() or sha256(place) != files[name]]


def load_or_train(recipe: Recipe | str, *, resume: bool = True, max_seconds: float | None = None) -> Run:
    """The finished run of a recipe, trained now if there is none, and with it those that its pipeline needs.

    What is missing among its parents is trained first. A run that another process is training is waited for. ``resume``
    goes on with a run that was stopped; after ``max_seconds`` it stops with a checkpoint.

    Raises:
        session.Unfinished: time ran out.
        BadInput: an unknown name, or settings that do not go together.
        NotAttempted: data or pretrained weights are not on this machine.
    """
    row = registry.get(recipe)
    until = None if max_seconds is None else time.monotonic() + max_seconds
    run = find(row) or train(row, resume=resume, max_seconds=max_seconds)
    for role in ("vae", "text"):
        if role in row.parents:
            load_or_train(row.parents[role], max_seconds=None if until is None else until - time.monotonic())
    return run


def train(recipe: Recipe, *, resume: bool = True, max_seconds: float | None = None) -> Run:
    """Train a recipe on this machine, whether or not it is published; its parents first, where they are missing.

    A finished run of this machine is returned as it is if ``resume``, and replaced otherwise. Arguments and errors are
    those of `load_or_train`.
    """
    until = None if max_seconds is None else time.monotonic() + max_seconds

    def left() -> float | None:
        return None if until is None else max(0.0, until - time.monotonic())

    kinds.kind_of(recipe)
    sources.examples(recipe.data)  # missing data is an error now, not after the parents' training
    for role, source in recipe.pretrained.items():
        Pretrained(source).check(role)
    parents: dict[str, Parts] = {role: Pretrained(source) for role, source in recipe.pretrained.items()}
    for role, parent in recipe.parents.items():
        parents[role] = load_or_train(parent, max_seconds=left())
    place = folder(recipe)
    with session.alone(place):
        if session.first():
            sweep(place.parent, place.name)  # a finished run that a kill left under another name comes back
        run = read(recipe, place)
        if not session.agreed(run is not None and resume and not altered(run)):
            fields = _identified(recipe)
            identity = {"key": key(recipe), "parents": fields["parents"], "pretrained": fields["pretrained"]}
            session.run(recipe, parents, place, _latents(recipe), identity, resume=resume, max_seconds=left())
            run = read(recipe, place)
    assert run is not None
    return run
