"""Typed parameters read from a notebook, and settings checked against them before any kernel starts."""

from pathlib import Path

import nbformat
import pytest
from papermill.inspection import inspect_notebook

from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow.parameters import declared, resolve
from tests.support.checkout import NOTEBOOK, PARAMETERS, TABLE, notebook


def test_declared_reads_types_defaults_and_what_is_allowed(workspace: Path) -> None:
    found = declared(workspace / NOTEBOOK)
    assert list(found) == ["tier", "factor", "steps", "models", "photos", "fail"]
    assert (found["factor"].low, found["factor"].high, found["factor"].default) == (0, 10, 1.0)
    assert found["tier"].choices == ("quick", "proxy", "paper")
    assert found["photos"].path
    assert found["photos"].choices == ("packages",)
    assert found["steps"].help == "steps of work"


def test_papermill_reads_the_same_cell(workspace: Path) -> None:
    theirs = inspect_notebook(str(workspace / NOTEBOOK))
    ours = declared(workspace / NOTEBOOK)
    assert list(theirs) == list(ours)
    assert {name: entry["inferred_type_name"] for name, entry in theirs.items()} == {
        name: parameter.type for name, parameter in ours.items()
    }


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("stpes=4", ["unknown parameter", "did you mean steps", "factor, steps, models, photos, fail"]),
        ("steps=4.5", ["steps", "int in [1, 100]"]),
        ("steps=101", ["int in [1, 100]"]),
        ("steps=0", ["int in [1, 100]"]),
        ("factor=nan", ["float in [0, 10]"]),
        ("factor=much", ["float in [0, 10]"]),
        ("models=sd15,sd99", ["among sd15, sd21"]),
        ("models=", ["names separated by commas"]),
        ("fail=maybe", ["no, error, input"]),
        ("photos=nowhere/at/all", ["existing file or folder", "packages"]),
        ("tier=paper", ["--tier"]),
        ("steps", ["name=value"]),
    ],
)
def test_a_bad_setting_names_what_is_allowed(workspace: Path, setting: str, says: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        resolve(ledger.find(TABLE), "quick", [setting])
    for words in says:
        assert words in str(caught.value)


def test_good_settings_are_typed(workspace: Path) -> None:
    values = resolve(ledger.find(TABLE), "quick", ["steps=7", "factor=2", "models=sd21, sd15", f"photos={workspace}"])
    assert values["steps"] == 7
    assert values["factor"] == 2.0
    assert isinstance(values["factor"], float)
    assert values["models"] == ["sd21", "sd15"]
    assert values["photos"] == str(workspace)
    assert values["fail"] == "no"


def test_an_unavailable_tier_says_what_it_needs(workspace: Path) -> None:
    with pytest.raises(BadInput, match="does not run at tier proxy"):
        resolve(ledger.find("mobilediffusion-ablation-quality"), "proxy")


@pytest.mark.parametrize(
    "cell",
    [
        "steps = 3  # no type",
        "steps: dict = {}",
        'steps: int = "three"',
        "steps: int = 300  # in [1, 100]: the default is outside",
        "for step in range(3): pass",
        "steps: int = ",
    ],
)
def test_a_malformed_parameters_cell_is_one_clear_error(tmp_path: Path, cell: str) -> None:
    nbformat.write(notebook(cell), tmp_path / "bad.ipynb")
    with pytest.raises(BadInput, match=r"bad\.ipynb"):
        declared(tmp_path / "bad.ipynb")


@pytest.mark.parametrize(
    ("cells", "unread"),
    [
        (["print(steps)"], []),
        (["work(of=steps)", "def later():\n    return steps"], []),
        ([], ["steps"]),
        (["print(step)  # steps"], ["steps"]),
        (["steps = 4", "print(steps)"], ["steps"]),
        (["print([steps for steps in range(3)])"], ["steps"]),
    ],
)
def test_a_parameter_that_no_cell_reads_is_an_error_of_the_notebook(
    tmp_path: Path, cells: list[str], unread: list[str]
) -> None:
    nbformat.write(notebook('tier: str = "quick"\nsteps: int = 3', *cells), tmp_path / "book.ipynb")
    if not unread:
        assert list(declared(tmp_path / "book.ipynb")) == ["tier", "steps"]
        return
    with pytest.raises(BadInput, match=f"do not read, or give another value: {', '.join(unread)}$"):
        declared(tmp_path / "book.ipynb")


def test_exactly_one_parameters_cell(tmp_path: Path) -> None:
    two = notebook(PARAMETERS, PARAMETERS)
    two.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(two, tmp_path / "two.ipynb")
    with pytest.raises(BadInput, match="2 cells"):
        declared(tmp_path / "two.ipynb")
    (tmp_path / "broken.ipynb").write_text("not json")
    with pytest.raises(BadInput, match="not a readable notebook"):
        declared(tmp_path / "broken.ipynb")
