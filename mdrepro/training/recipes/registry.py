"""Every training run as one named row: what is trained, from what, on what, and how.

The comment on a row says what it came to when it was trained ("measured"), or what it has to come to ("wanted"). Values
that a paper gives carry its name there; all others are ours.
"""

from collections.abc import Iterable

from mdrepro.core.errors import BadInput, unknown
from mdrepro.training.recipes import paper, proxy, quick, rules, students
from mdrepro.training.recipes.recipe import TIERS, Recipe

ROWS = (
    *quick.QUICK,
    *rules.QUICK,
    *students.STUDENTS,
    *proxy.PROXY,
    *paper.PAPER,
)


def _table(rows: Iterable[Recipe]) -> dict[str, Recipe]:
    """The rows by name, each after its parents."""
    table: dict[str, Recipe] = {}
    for row in rows:
        for role, parent in row.parents.items():
            if parent not in table:
                raise BadInput(f"{row.name}: its {role} {parent!r} is no row before it; rows follow their parents")
        if row.name in table:
            raise BadInput(f"{row.name} is the name of two rows: each needs its own")
        table[row.name] = row
    return table


RECIPES = _table(ROWS)


def get(name: str) -> Recipe:
    """The row of that name. Raises BadInput that names the nearest and all others."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]


def names(tier: str | None = None) -> list[str]:
    """The rows of a tier, or all, each after its parents. Raises BadInput for an unknown tier."""
    if tier is not None and tier not in TIERS:
        raise unknown("tier", tier, TIERS)
    return [name for name, recipe in RECIPES.items() if tier in (None, recipe.tier)]
