"""Publication of trained runs: copies in ``results/<tier>/checkpoints/<recipe>/`` with weights in float16."""

import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.core.files import sha256, swap, sweep, unfinished
from mdrepro.core.locks import hold
from mdrepro.core.replicas import split
from mdrepro.papers import ledger
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import model_folders, session, store
from mdrepro.training.runs.store import SHARED, Run

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 70 * 10**6
"""Bytes of a tier's published checkpoints together: 42 MB by the recipes' own seeds, and two more training seeds of the
three denoisers of the default tables (base, few-step, one-step), 4.4 MB each in float16."""


def publish(names: Sequence[str], limit: int = LIMIT) -> list[Path]:
    """Copy runs of this machine to ``results/<tier>/checkpoints/<recipe>/``, weights in float16; all or none.

    Raises BadInput where there is no finished run of a recipe as it stands, it was not trained from a clean commit, it
    is of another training seed and no table that runs by default takes it, a weight is not finite in float16, a
    published run that shares weights with one of them would lose these, or all of a tier's would have more than
    ``limit`` bytes.
    """
    for place in (store.published_folder(registry.get(name)) for name in names):
        sweep(place.parent, place.name)
    runs = {name: _publishable(registry.get(name)) for name in names}
    copies: dict[Path, Path] = {}
    with ExitStack() as stack:
        stack.enter_context(hold(paths.publishing()))
        for name in registry.parents_first(runs):
            target = store.published_folder(runs[name].recipe)
            copies[target] = stack.enter_context(unfinished(target))
            _copy_halved(runs[name], copies[target], copies)
        for home in {target.parent for target in copies}:
            folders = {
                path.name: copies.get(path, path) for path in (*home.glob("[!.]*"), *copies) if path.parent == home
            }
            _check_shared(folders, runs)
            _check_size(home, folders, limit)
        for target, copy in copies.items():
            swap(copy, target)
    return [store.published_folder(run.recipe) for run in runs.values()]


def _publishable(row: Recipe) -> Run:
    if split(row.name)[1] and row.name not in ledger.default_recipes(ledger.check_tier(row.tier)):
        raise BadInput(
            f"{row.name}: of other training seeds only checkpoints that tables take by default are published; the "
            f"tables' results keep the records of all"
        )
    run = store.read(row, store.folder(row))
    again = f"mdrepro train {row.name}"
    if run is None:
        raise BadInput(f"{row.name} has no finished run of the recipe as it stands; run: {again}")
    if bad := store.altered(run):
        raise BadInput(f"{paths.relative(run.folder / bad[0])} is not what was written; run: {again} --no-resume")
    if run.record.get("dirty") is not False or not run.record.get("commit"):
        changed = ", ".join(run.record.get("changed_files", ())[:3]) or "no git commit"
        raise BadInput(
            f"{row.name} was not trained from a clean commit ({changed}); commit, then run: {again} --no-resume"
        )
    return run


def _copy_halved(run: Run, folder: Path, copies: Mapping[Path, Path]) -> None:
    """The run's files, weights in float16 and without those that a published parent has too, and its record."""
    from safetensors.torch import load_file, save_file

    shared: dict[str, dict[str, str]] = {}
    for name in run.record["files"]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith(".safetensors"):
            shutil.copyfile(run.folder / name, target)
            continue
        weights = _halved(load_file(run.folder / name), run.recipe.name)
        part = name.partition("/")[0]
        if parent := _published_parent(run.recipe, part, copies):
            theirs = load_file(parent.folder / name)
            own = {key: value for key, value in weights.items() if key not in theirs or not value.equal(theirs[key])}
            if len(own) < len(weights):
                weights = own
                shared[part] = {"recipe": parent.recipe.name, "sha256": parent.record["files"][name]}
        save_file(weights, target, metadata={"format": "pt"})
    folder.chmod(0o755)
    record = run.record | {"weights": "float16"}
    record["trained_files"] = run.record.get("trained_files", run.record["files"])
    session.write_record(folder, record | ({SHARED: shared} if shared else {}))


def _halved(weights: "Mapping[str, Tensor]", recipe: str) -> "dict[str, Tensor]":
    import torch

    halved = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    for key, value in halved.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise BadInput(f"{recipe}: {key} is not finite in float16: such weights cannot be published")
    return halved


def _published_parent(recipe: Recipe, part: str, copies: Mapping[Path, Path]) -> Run | None:
    """The parent with such a part, of the recipe as it stands, as it will be published or is."""
    if part not in recipe.parents:
        return None
    parent = registry.get(recipe.parents[part])
    copy = copies.get(store.published_folder(parent))
    run = store.read(parent, copy) if copy else store.published(parent)
    return run if run and f"{part}/{model_folders.WEIGHTS}" in run.record["files"] else None


def _check_shared(folders: Mapping[str, Path], new: Collection[str]) -> None:
    """Raises BadInput where a published run would lose weights that it shares with one of the ``new`` ones."""
    for name, folder in folders.items():
        for part, shared in (store.record(folder) or {}).get(SHARED, {}).items():
            parent = shared["recipe"]
            if parent in new and sha256(folders[parent] / part / model_folders.WEIGHTS) != shared["sha256"]:
                raise BadInput(f"{name} shares weights with the published {parent}, which would change: publish both")


def _check_size(home: Path, folders: Mapping[str, Path], limit: int) -> None:
    """Raises BadInput where a tier's published checkpoints would be larger than allowed."""
    sizes = {
        name: sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        for name, folder in folders.items()
    }
    if sum(sizes.values()) > limit:
        largest = sorted(sizes.items(), key=lambda pair: -pair[1])
        raise BadInput(
            f"published checkpoints would have {sum(sizes.values()) / 1e6:.1f} MB "
            f"({', '.join(f'{name} {size / 1e6:.1f}' for name, size in largest)}): must be at most "
            f"{limit / 1e6:g} MB in {paths.relative(home)}"
        )
