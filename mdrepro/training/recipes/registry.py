"""Every training run as one named row: what is trained, from what, on what, and how.

The comment on a row says what it reached when it was trained ("measured"), or what it has to reach ("wanted"). Values
that a paper gives carry its name there; all others are ours.
"""

from collections.abc import Iterable
from dataclasses import replace

from mdrepro.core.errors import BadInput, check
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


def get(recipe: str | Recipe) -> Recipe:
    """The row of that name, or the recipe itself. Raises BadInput that names the nearest and all others."""
    if isinstance(recipe, Recipe):
        return recipe
    return RECIPES[check("recipe", recipe, RECIPES)]


def names(tier: str | None = None) -> list[str]:
    """The rows of a tier, or all, each after its parents. Raises BadInput for an unknown tier."""
    if tier is not None:
        check("tier", tier, TIERS)
    return [name for name, recipe in RECIPES.items() if tier in (None, recipe.tier)]
