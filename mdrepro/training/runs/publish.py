"""Publication of trained runs: copies in ``results/<tier>/checkpoints/<recipe>/`` with weights in float16."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.core.files import swap, unfinished
from mdrepro.training.recipes import registry
from mdrepro.training.recipes.recipe import Recipe
from mdrepro.training.runs import model_folders, session, store
from mdrepro.training.runs.store import SHARED, Run

if TYPE_CHECKING:
    from torch import Tensor

LIMIT = 25 * 10**6
"""Bytes of a tier's published checkpoints together."""


def publish(names: Sequence[str], limit: int = LIMIT) -> list[Path]:
    """Copy runs of this machine to ``results/<tier>/checkpoints/<recipe>/``, weights in float16; all or none.

    Args:
        names: recipes.
        limit: bytes that all published checkpoints of a tier may have together.

    Raises:
        BadInput: there is no finished run of a recipe as it stands, it was not trained from a clean commit, a weight
            is not finite in float16, or together they are too large.
    """
    runs = [_publishable(registry.get(name)) for name in dict.fromkeys(names)]
    copies: dict[Path, Path] = {}
    with ExitStack() as stack:
        for run in runs:
            target = store.published_folder(run.recipe)
            copies[target] = stack.enter_context(unfinished(target))
            _copy_halved(run, copies[target])
        for home in {target.parent for target in copies}:
            _check_size(home, {target.name: copy for target, copy in copies.items() if target.parent == home}, limit)
        for target, copy in copies.items():
            swap(copy, target)
    return list(copies)


def _publishable(row: Recipe) -> Run:
    run = store.read(row, store.folder(row))
    again = f"mdrepro train {row.name}"
    if run is None:
        raise BadInput(f"{row.name} has no finished run of the recipe as it stands; run: {again}")
    if bad := store.altered(run):
        raise BadInput(f"{paths.relative(run.folder / bad[0])} is not what was written; run: {again} --no-resume")
    if run.record["dirty"] or not run.record["commit"]:
        changed = ", ".join(run.record["changed_files"][:3]) or "no git commit"
        raise BadInput(
            f"{row.name} was not trained from a clean commit ({changed}); commit, then run: {again} --no-resume"
        )
    return run


def _copy_halved(run: Run, folder: Path) -> None:
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
        if parent := _published_parent(run.recipe, part):
            theirs = load_file(parent.folder / name)
            own = {key: value for key, value in weights.items() if not _equal(value, theirs.get(key))}
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


def _published_parent(recipe: Recipe, part: str) -> Run | None:
    """The published parent, of the recipe as it stands, with such a part."""
    if part not in recipe.parents:
        return None
    run = store.published(registry.get(recipe.parents[part]))
    return run if run and f"{part}/{model_folders.WEIGHTS}" in run.record["files"] else None


def _equal(one: "Tensor", other: "Tensor | None") -> bool:
    return other is not None and one.shape == other.shape and bool((one == other).all())


def _check_size(home: Path, copies: Mapping[str, Path], limit: int) -> None:
    """Raises BadInput where a tier's published checkpoints would be larger than allowed."""
    folders = {path.name: path for path in home.glob("[!.]*")} | dict(copies)
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
