"""A package of two folders for the API reference."""

from pathlib import Path

FILES = {
    "__init__.py": '"""A toy."""\n',
    "shapes/__init__.py": '"""Shapes in the plane."""\n',
    "shapes/circle.py": '''"""Circles, after *nobody*'s |paper|, of the kind_ that `Circle` is."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from toy.shapes.unit import Unit

SIDES = 0
"""Of a circle."""
undocumented = 1


@dataclass
class Circle:
    """A circle.

    Args:
        radius: in ``unit``.
    """

    radius: float
    unit: "Unit"

    @property
    def area(self) -> float:
        """Its area."""
        return 3.14 * self.radius**2

    @classmethod
    def of_area(cls, area: float, unit: "Unit") -> "Circle":
        """A circle of this area.

        Raises:
            ValueError: the area is negative.
        """
        return cls(area, unit)

    def hidden(self) -> None:
        return


def larger(one: Circle, other: Circle) -> Circle:
    """The larger of two."""
    return max(one, other, key=lambda each: each.area)


def corners(kind: Literal["Circle", "no such type"], of: "list[Circle]") -> int:
    """How many."""
    return SIDES


def _private() -> None:
    """Not shown."""
''',
    "shapes/unit.py": '''"""Units."""


class Unit:
    """Of length."""
''',
    "cli/__init__.py": '"""Left out."""\n',
}


def package(home: Path) -> Path:
    """Write the package ``toy`` below ``home`` and return its folder."""
    for name, text in FILES.items():
        (home / "toy" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "toy" / name).write_text(text)
    return home / "toy"
