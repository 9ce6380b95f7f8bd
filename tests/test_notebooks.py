"""Every committed notebook: no outputs, one tagged parameters cell, calls rather than code."""

import ast
import subprocess
from pathlib import Path

import nbformat
import pytest

from mdrepro.papers import ledger
from mdrepro.reproduce.workflow.parameters import declared, resolve
from tests.support.checkout import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").rglob("*.ipynb"))
WITHOUT_TABLE = {"overview", "playground"}


def test_every_table_has_its_notebook_and_the_other_way_round() -> None:
    wanted = {REPOSITORY / table.notebook for table in ledger.tables().values() if table.notebook}
    there = {path for path in NOTEBOOKS if ".ipynb_checkpoints" not in path.parts}
    assert wanted == {path for path in there if path.stem not in WITHOUT_TABLE}
    assert {path.stem for path in there - wanted} == WITHOUT_TABLE


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_clean(path: Path) -> None:
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    assert len({cell.id for cell in book.cells}) == len(book.cells)
    tagged = [cell for cell in book.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert book.cells[0].cell_type == "markdown"
    assert book.cells[0].source.startswith("# ")
    assert book.metadata.kernelspec.name == "python3"
    assert declared(path), "each is read by the other cells"
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    for cell in code:
        assert cell.outputs == []
        assert cell.execution_count is None
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
                assert (node.end_lineno or 0) - node.lineno + 1 <= 5
    assert ("record(" in code[-1].source) == (path.stem not in WITHOUT_TABLE)
    assert "$" not in "".join(cell.source for cell in book.cells if cell.cell_type == "markdown")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(WITHOUT_TABLE))
def test_a_notebook_without_a_table_runs_from_a_clone(name: str) -> None:
    from nbclient import NotebookClient

    book = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(REPOSITORY)}}).execute()
    kinds = {kind for cell in book.cells for out in cell.get("outputs", []) for kind in out.get("data", {})}
    assert {"overview": "image/png", "playground": "application/vnd.jupyter.widget-view+json"}[name] in kinds


@pytest.mark.parametrize("table", ledger.tables().values(), ids=lambda table: table.id)
def test_every_tier_of_a_table_resolves(table: ledger.Table) -> None:
    names = declared(REPOSITORY / str(table.notebook))
    assert "tier" in names
    assert all(parameter.help for parameter in names.values())
    for tier in table.tiers:
        assert resolve(table, tier)["tier"] == tier


def test_no_path_of_this_machine_and_no_leftover_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    home = str(REPOSITORY)
    for name in listed.splitlines():
        path = REPOSITORY / name
        if path.suffix in {".py", ".md", ".yaml", ".yml", ".toml", ".json", ".ipynb", ".lock", ".csv", ".svg"}:
            assert home not in path.read_text(encoding="utf-8"), name
    ours = {name for name in listed.splitlines() if name.startswith(("papermill_runs/", ".snakemake/", ".venv/"))}
    assert ours <= {"papermill_runs/README.md"}
