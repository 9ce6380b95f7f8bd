"""The API reference: what is shown of a package, when it is rendered again, and that the real one has no warnings."""

import re
from pathlib import Path
from typing import Any

import pytest

from mdrepro.reproduce.report import api
from tests.support.toy_package import package


@pytest.fixture
def toy(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(api, "PACKAGE", package(workspace))
    return workspace / "toy"


def test_public_and_documented_members_are_shown_with_types_by_their_full_names(toy: Path) -> None:
    pages = api.pages()
    assert set(pages) == {"index.rst", "toy.rst", "toy.shapes.rst"}
    assert pages["index.rst"].split()[-2:] == ["toy", "toy.shapes"]
    text = pages["toy.shapes.rst"]
    for line in (
        r"Circles, after \*nobody\*'s \|paper\|, of the kind\_ that `~toy.shapes.circle.Circle` is.",
        ".. py:data:: SIDES",
        ".. py:class:: Circle",
        "   :param radius: in ``unit``.",
        "   .. py:attribute:: unit\n      :type: toy.shapes.unit.Unit",
        "   .. py:property:: area\n      :type: float",
        "   .. py:method:: of_area(area: float, unit: toy.shapes.unit.Unit) -> toy.shapes.circle.Circle\n"
        "      :classmethod:",
        "      :raises ValueError: the area is negative.",
        ".. py:function:: larger(one: toy.shapes.circle.Circle, other: toy.shapes.circle.Circle)"
        " -> toy.shapes.circle.Circle",
        ".. py:function:: corners(kind: Literal['Circle', 'no such type'], of: list[toy.shapes.circle.Circle]) -> int",
    ):
        assert line in text
    for name in ("undocumented", "hidden", "_private", "toy.cli"):
        assert name not in "".join(pages.values())


def test_it_is_rendered_again_only_when_code_changes(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, str]] = []

    def sphinx(source: dict[str, str], out: Path, **options: Any) -> None:
        assert options == {"strict": False, "tags": ("api",)}
        calls.append(source)
        (out / "index.html").write_text("")

    monkeypatch.setattr(api, "sphinx", sphinx)
    folder = api.build()
    assert (folder / "index.html").is_file()
    assert api.build() == folder
    assert len(calls) == 1
    (toy / "shapes/unit.py").write_text("")
    api.build()
    assert len(calls) == 2


@pytest.mark.slow
def test_the_reference_of_this_package_has_no_warnings_and_all_parts(workspace: Path) -> None:
    folder = api.build(strict=True)
    linked = set(re.findall(r'href="(mdrepro[\w.]*)\.html"', (folder / "index.html").read_text()))
    parts = {f"mdrepro.{path.parent.name}" for path in api.PACKAGE.glob("*/__init__.py")} - {"mdrepro.cli"}
    assert parts <= linked
    text = (folder / "mdrepro.core.html").read_text()
    assert 'id="mdrepro.core.files.replacing"' in text
