"""Trained runs: found by their recipe's hash, trained where they are missing, published, assembled to pipelines.

A run lies in ``papermill_runs/<tier>/checkpoints/<recipe>-<hash>/``: while it is trained, in ``work/`` inside; then as
diffusers folders beside ``training.json``, its record. A published one lies in ``results/<tier>/checkpoints/<recipe>/``
with weights in float16.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted, unknown
from mdrepro.core.files import digest, sha256, swap, unfinished, write_json
from mdrepro.data import sources
from mdrepro.training.objectives import kinds
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import loaded, model_folders, session
from mdrepro.training.runs.model_folders import Pretrained
from mdrepro.training.runs.scratch import from_scratch
from mdrepro.training.runs.session import RECORD

if TYPE_CHECKING:
    from torch import Tensor

    from mdrepro.models.pipeline import MobileDiffusionPipeline
    from mdrepro.training.objectives.inputs import Parts

UNCOUNTED = ("checkpoint_every", "log_every")
"""Settings of the loop that leave the weights as they are."""
SHARED = "shared"
"""In a published run's record: parts whose file lacks the weights that they share with a published parent's."""
LIMIT = 25 * 10**6
"""Bytes of a tier's published checkpoints together."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        recipe: its recipe.
        folder: where it lies.
        record: its ``training.json``.
    """

    recipe: Recipe
    folder: Path
    record: dict[str, Any]

    @property
    def file(self) -> Path:
        """Its record, which holds the hashes of all its other files: name it where a result rests on this run."""
        return self.folder / RECORD

    def load(self, part: str) -> Any:
        """``unet``, ``vae``, ``text_encoder``, ``reader``, ``clip``: a network in eval mode, float32, on the CPU;
        ``tokenizer``; ``scheduler``. Raises BadInput where the run has no such part."""
        if not (self.folder / part).is_dir():
            have = [folder.name for folder in sorted(self.folder.iterdir()) if folder.is_dir()]
            raise unknown(f"part of {self.recipe.name}", part, have)
        shared = self.record.get(SHARED, {}).get(part)
        rest = None if shared is None else published_folder(registry.get(shared["recipe"])) / part
        return loaded.noted(model_folders.load(self.folder / part, part, rest), self)


def key(recipe: Recipe) -> str:
    """12 hexadecimal digits that identify a recipe: its fields, its parents' keys, and its data.

    Not counted are where data and pretrained weights lie, how the checkpoint is sampled, and how often is logged and
    checkpointed.

    Raises:
        BadInput: data that cannot be read.
        NotAttempted: the data's path is not set.
    """
    return digest(_identified(recipe), compact=False)[:12]


def _identified(recipe: Recipe) -> dict[str, Any]:
    """What counts in a recipe's key. Fields that are empty do not, so that new ones leave old keys as they are."""
    told = recipe.plain()
    for name in ("tier", "sampling"):
        del told[name]
    for name in UNCOUNTED:
        del told["loop"][name]
    told["loop"] = {name: value for name, value in told["loop"].items() if value != {}}
    told["parents"] = {role: key(registry.get(name)) for role, name in recipe.parents.items()}
    told["pretrained"] = {role: Pretrained(source).digest(role) for role, source in recipe.pretrained.items()}
    told["data"] = sources.examples(recipe.data).fingerprint
    if not recipe.data.get("cache", True):
        told["cache"] = False
    return {name: value for name, value in told.items() if value != {} or name in ("parents", "pretrained")}


def stamp(name: str) -> dict[str, Any]:
    """What a table that rests on this recipe depends on: its key, and how it is sampled."""
    recipe = registry.get(name)
    return {"key": key(recipe), "sampling": recipe.plain()["sampling"]}


def folder(recipe: Recipe) -> Path:
    """Where the run of a recipe lies on this machine."""
    return paths.runs() / recipe.tier / "checkpoints" / f"{recipe.name}-{key(recipe)}"


def _latents(recipe: Recipe) -> Path:
    """Where latents and text features of a recipe's data are kept, for all recipes with the same encoders."""
    told = _identified(recipe)
    encoders = [[told[how].get(role) for how in ("parents", "pretrained")] for role in ("vae", "text")]
    said = json.dumps([told["data"], encoders])
    return paths.runs() / recipe.tier / "latents" / hashlib.sha256(said.encode()).hexdigest()[:12]


def published_folder(recipe: Recipe) -> Path:
    """Where its published run lies."""
    return paths.published(recipe.tier) / "checkpoints" / recipe.name


def find(recipe: Recipe | str) -> Run | None:
    """The finished run of a recipe: this machine's, or else the published one if it is of the recipe as it stands.

    Published ones are not looked at where `mdrepro.training.runs.scratch` says so.

    Args:
        recipe: a row, or its name.

    Raises:
        BadInput: an unknown name, or a published run that was changed.
        NotAttempted: its data is not here, so its key is not known.
    """
    row = registry.get(recipe)
    here = _read(row, folder(row))
    if here is not None and not (bad := _changed(here)):
        return here
    if here is not None:
        print(f"{row.name}: not taken: {paths.relative(here.folder / bad[0])} is not what was written", file=sys.stderr)
    told = None if from_scratch() else _read(row, published_folder(row))
    if told is None or told.record["key"] != key(row):
        return None
    if bad := _changed(told):
        file = paths.relative((told.folder / bad[0]).resolve())
        raise BadInput(f"{file} was changed or is gone since it was published; restore it")
    return told


def _read(recipe: Recipe, place: Path) -> Run | None:
    try:
        record = json.loads((place / RECORD).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{paths.relative(place / RECORD)} cannot be read ({error}); remove that folder") from error
    return Run(recipe, place, record)


def _changed(run: Run) -> list[str]:
    """Files that are gone or not what the record says, those of a parent that it shares weights with included."""
    files = dict(run.record["files"])
    for part, shared in run.record.get(SHARED, {}).items():
        files[f"../{shared['recipe']}/{part}/{model_folders.WEIGHTS}"] = shared["sha256"]
    return [
        name
        for name, written in files.items()
        if not (run.folder / name).is_file() or sha256(run.folder / name) != written
    ]


def load_or_train(recipe: Recipe | str, *, resume: bool = True, max_seconds: float | None = None) -> Run:
    """The finished run of a recipe, trained now if there is none, and with it those that its pipeline needs.

    What is missing among its parents is trained first. A run that another process is training is waited for.

    Args:
        recipe: a row, or its name.
        resume: go on with a run that was stopped.
        max_seconds: stop after so long, with a checkpoint.

    Raises:
        session.Unfinished: time ran out.
        BadInput: an unknown name, or settings that do not go together.
        NotAttempted: data or pretrained weights are not here.
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

    A finished run of this machine is returned as it is if ``resume``, and replaced otherwise.

    Arguments and errors are those of `load_or_train`.
    """
    until = None if max_seconds is None else time.monotonic() + max_seconds

    def left() -> float | None:
        return None if until is None else max(0.0, until - time.monotonic())

    kinds.kind_of(recipe)
    sources.examples(recipe.data)  # what is missing is an error now, not after the parents' training
    for role, source in recipe.pretrained.items():
        Pretrained(source).check(role)
    parents: dict[str, Parts] = {role: Pretrained(source) for role, source in recipe.pretrained.items()}
    for role, name in recipe.parents.items():
        parents[role] = load_or_train(name, max_seconds=left())
    place = folder(recipe)
    with session.alone(place):
        here = _read(recipe, place)
        whole = here is not None and resume and not _changed(here)
        if not session.agreed(whole):
            names = {role: key(registry.get(name)) for role, name in recipe.parents.items()}
            identity = {"key": key(recipe), "parents": names, "pretrained": _identified(recipe)["pretrained"]}
            session.run(recipe, parents, place, _latents(recipe), identity, resume=resume, max_seconds=left())
            here = _read(recipe, place)
    assert here is not None
    return here


def pipeline(recipe: Recipe | str, *, vae: str | None = None) -> "MobileDiffusionPipeline":
    """Text to image with a trained denoiser, and the text encoder and autoencoder that it was trained on.

    Args:
        recipe: a row of a denoiser, or its name.
        vae: a recipe whose autoencoder is taken in place of the row's own: one with a lighter decoder for the same
            latents.

    Raises:
        BadInput: a recipe of something else, or an autoencoder of other latents.
        NotAttempted: one of the runs is missing; the message has the command.
    """
    from mdrepro.models.pipeline import MobileDiffusionPipeline

    row = registry.get(recipe)
    if kinds.kind_of(row).gives != "unet":
        raise BadInput(f"{row.name} is a run of kind {row.kind}: allowed are those of denoisers")
    if vae is not None and vae != row.parents.get("vae") and _begins_with(registry.get(vae)) != _begins_with(row):
        raise BadInput(
            f"{vae} decodes other latents than those of {row.name}: allowed are decoders of the same encoder"
        )
    denoiser, text = _needed(row), _of_role(row, "text")
    autoencoder = _needed(registry.get(vae)) if vae else _of_role(row, "vae")
    sampling: dict[str, Any] = {f"default_{name}": value for name, value in row.sampling.items()}
    return MobileDiffusionPipeline(
        vae=autoencoder.load("vae"),
        text_encoder=text.load("text_encoder"),
        tokenizer=text.load("tokenizer"),
        unet=denoiser.load("unet"),
        scheduler=denoiser.load("scheduler"),
        **sampling,
    )


def _begins_with(row: Recipe) -> str | Recipe | None:
    """The autoencoder that a row rests on: a recipe, or pretrained weights."""
    return row.parents.get("vae", row.pretrained.get("vae"))


def _of_role(row: Recipe, role: str) -> "Parts":
    return Pretrained(row.pretrained[role]) if role in row.pretrained else _needed(registry.get(row.parents[role]))


def _needed(row: Recipe) -> Run:
    run = find(row)
    if run is None:
        raise NotAttempted(f"there is no checkpoint of {row.name}: mdrepro train {row.name}")
    return run


def add_results(run: Run, results: Mapping[str, Any]) -> None:
    """Write measured results into the record of a run on this machine, over others of the same name.

    Raises:
        BadInput: it is a published run.
    """
    if not run.folder.is_relative_to(paths.runs()):
        raise BadInput(
            f"{run.recipe.name} is taken from {paths.relative(run.folder)}: allowed are runs of this machine"
        )
    record = json.loads(run.file.read_text())
    write_json(run.file, record | {"results": {**record["results"], **results}})


def publish(names: Sequence[str], limit: int = LIMIT) -> list[Path]:
    """Copy runs of this machine to ``results/<tier>/checkpoints/<recipe>/``, weights in float16; all or none.

    Args:
        names: recipes.
        limit: bytes that all published checkpoints of a tier may have together.

    Raises:
        BadInput: there is no finished run of a recipe as it stands, it was not trained from a clean commit, a weight
            is not finite in float16, or together they are too large.
    """
    chosen = [_publishable(registry.get(name)) for name in dict.fromkeys(names)]
    made: list[tuple[Path, Path]] = []
    with ExitStack() as stack:
        for run in chosen:
            target = published_folder(run.recipe)
            made.append((stack.enter_context(unfinished(target)), target))
            _copy_halved(run, made[-1][0])
        for home in {target.parent for _, target in made}:
            _check_size(home, [pair for pair in made if pair[1].parent == home], limit)
        for new, target in made:
            swap(new, target)
    return [target for _, target in made]


def _publishable(row: Recipe) -> Run:
    run = _read(row, folder(row))
    again = f"mdrepro train {row.name}"
    if run is None:
        raise BadInput(f"{row.name} has no finished run of the recipe as it stands; run: {again}")
    if bad := _changed(run):
        raise BadInput(f"{paths.relative(run.folder / bad[0])} is not what was written; run: {again} --no-resume")
    if run.record["dirty"] or not run.record["commit"]:
        changed = ", ".join(run.record["changed_files"][:3]) or "no git commit"
        raise BadInput(
            f"{row.name} was not trained from a clean commit ({changed}); commit, then run: {again} --no-resume"
        )
    return run


def _copy_halved(run: Run, place: Path) -> None:
    """The run's files, weights in float16 and without those that a published parent has too, and its record."""
    import torch
    from safetensors.torch import load_file, save_file

    shared: dict[str, dict[str, str]] = {}
    for name in run.record["files"]:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".safetensors"):
            shutil.copyfile(run.folder / name, target)
            continue
        weights = load_file(run.folder / name)
        halved = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
        for key, value in halved.items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise BadInput(f"{run.recipe.name}: {key} is not finite in float16: such weights cannot be published")
        if (parent := _parent_of(run.recipe, part := name.partition("/")[0])) is not None:
            known = load_file(parent.folder / name)
            own = {key: value for key, value in halved.items() if not _same(value, known.get(key))}
            if len(own) < len(halved):
                halved, source = own, parent.recipe.name
                shared[part] = {"recipe": source, "sha256": parent.record["files"][name]}
        save_file(halved, target, metadata={"format": "pt"})
    place.chmod(0o755)
    more = {"weights": "float16", "trained_files": run.record.get("trained_files", run.record["files"])} | (
        {SHARED: shared} if shared else {}
    )
    session.write_record(place, run.record | more)


def _parent_of(recipe: Recipe, part: str) -> Run | None:
    """The published parent, of the recipe as it stands, with such a part."""
    row = registry.get(recipe.parents[part]) if part in recipe.parents else None
    told = None if row is None else _read(row, published_folder(row))
    if (
        told is None
        or told.record["key"] != key(told.recipe)
        or f"{part}/{model_folders.WEIGHTS}" not in told.record["files"]
    ):
        return None
    return told


def _same(one: "Tensor", other: "Tensor | None") -> bool:
    return other is not None and one.shape == other.shape and bool((one == other).all())


def _check_size(home: Path, made: Sequence[tuple[Path, Path]], limit: int) -> None:
    """Raises BadInput where a tier's published checkpoints would be larger than allowed."""
    sizes = {path.name: _size(path) for path in home.glob("[!.]*")} | {target.name: _size(new) for new, target in made}
    if sum(sizes.values()) > limit:
        words = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(sizes.items(), key=lambda pair: -pair[1]))
        raise BadInput(
            f"published checkpoints would have {sum(sizes.values()) / 1e6:.1f} MB ({words}): allowed are "
            f"{limit / 1e6:g} MB in {paths.relative(home)}"
        )


def _size(place: Path) -> int:
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
