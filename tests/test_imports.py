"""No import circle in the package, imports inside functions included; those for a type checker alone never run."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.checkout import REPOSITORY


def modules(root: Path, package: str) -> dict[str, ast.Module]:
    """The package's modules by dotted name, parsed."""
    files = {file.relative_to(root).with_suffix("").parts: file for file in (root / package).rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): ast.parse(file.read_text()) for parts, file in files.items()}


def imports(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """For each module those of ``trees`` that it imports anywhere but under ``if TYPE_CHECKING``."""
    graph: dict[str, set[str]] = {}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        named = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inside = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                named |= {full if full in trees else node.module for full in inside.values()}
        graph[name] = (named & trees.keys()) - {name}
    return graph


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one import circle; none where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_the_package_has_no_import_circle() -> None:
    graph = imports(modules(REPOSITORY, "mdrepro"))
    assert len(graph) > 150
    assert circle(graph) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pack.a",
        "from pack import a",
        "def late():\n    from pack.a import x",
        "if TYPE:\n    from pack import a",
    ],
)
def test_a_circle_is_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "pack").mkdir()
    texts = {"__init__": "", "a": "from pack.b import y", "b": "from pack import c", "c": line}
    for name, text in texts.items():
        (tmp_path / "pack" / f"{name}.py").write_text(text)
    assert set(circle(imports(modules(tmp_path, "pack")))) == {"pack.a", "pack.b", "pack.c"}


def test_an_import_for_types_alone_is_none(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "a.py").write_text("import pack.b")
    (tmp_path / "pack" / "b.py").write_text("if TYPE_CHECKING:\n    import pack.a")
    assert circle(imports(modules(tmp_path, "pack"))) == []
