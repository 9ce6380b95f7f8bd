"""Every training run as one named row: what is trained, from what, on what, and how.

The comment on a row says what it reached when it was trained ("measured"), or what it has to reach ("wanted"). Values
that a paper gives carry its name there; all others are ours.
"""

from collections.abc import Iterable
from dataclasses import replace

from mdrepro.core.errors import BadInput, check, unknown
from mdrepro.core.replicas import replica, split
from mdrepro.models import systems
from mdrepro.training.recipes import paper, photos, proxy, quick, rules, students
from mdrepro.training.recipes.recipe import TIERS, Recipe


def _table(rows: Iterable[Recipe]) -> dict[str, Recipe]:
    """The rows by name, each after its parents; a parent that is given as a recipe becomes a row itself."""
    table: dict[str, Recipe] = {}

    def add(row: Recipe) -> None:
        for role, parent in row.parents.items():
            if isinstance(parent, Recipe):
                add(parent)
            elif parent not in table:
                raise BadInput(f"{row.name}: its {role} {parent!r} is no row before it; rows follow their parents")
        named = replace(row, parents=row.parent_names)
        if table.setdefault(row.name, named) != named:
            raise BadInput(f"{row.name} is the name of two rows: each needs its own")

    for row in rows:
        if row.name in table:
            raise BadInput(f"{row.name} is the name of two rows: each needs its own")
        add(row)
    return table


RECIPES = _table((*quick.QUICK, *rules.QUICK, *students.STUDENTS, *photos.PHOTOS, *proxy.PROXY, *paper.PAPER))
LISTED = "the recipes of mdrepro train --list"
"""In place of their names in errors: they are a hundred."""


def unknown_model(name: str) -> BadInput:
    """The error for a name that is no whole system, recipe or folder of a pipeline."""
    known = systems.whole()
    listed = f"{', '.join(known)}, a folder of a diffusers pipeline, or {LISTED}"
    return unknown("model", name, [*known, *RECIPES], listed)


def get(recipe: str | Recipe) -> Recipe:
    """The row of that name, or the recipe itself; ``NAME-seed1`` is row NAME by another training seed (`with_seed`).

    Raises BadInput that names the nearest.
    """
    if isinstance(recipe, Recipe):
        return recipe
    return find(recipe) or RECIPES[check("recipe", recipe, RECIPES, LISTED)]


def find(name: str) -> Recipe | None:
    """The row of that name, by another training seed where it says so; None where it is no recipe's name."""
    own, seed = split(name)
    if (row := RECIPES.get(own)) is None:
        return None
    return with_seed(row, seed) if seed else row


def with_seed(row: Recipe, seed: int) -> Recipe:
    """The row with another training seed, from 1 on, and so all denoisers that it begins with or learns from.

    Autoencoders and text encoders stay those of the row: all seeds are of the same latents and text features.
    """
    parents = {
        role: parent if role in ("vae", "text") else replica(parent, seed) for role, parent in row.parent_names.items()
    }
    return replace(
        row, name=replica(row.name, seed), parents=parents, loop=replace(row.loop, seed=row.loop.seed + seed)
    )


def names(tier: str | None = None) -> list[str]:
    """The rows of a tier, or all, each after its parents. Raises BadInput for an unknown tier."""
    if tier is not None:
        check("tier", tier, TIERS)
    return [name for name, recipe in RECIPES.items() if tier in (None, recipe.tier)]


def parents_first(names: Iterable[str]) -> list[str]:
    """Names of recipes, whatever their training seeds, each after its parents."""
    order = {name: index for index, name in enumerate(RECIPES)}
    return sorted(names, key=lambda name: (order[split(name)[0]], split(name)[1]))
