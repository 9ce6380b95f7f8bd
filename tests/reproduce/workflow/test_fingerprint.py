"""A fingerprint changes when, and only when, the work would."""

import json
from pathlib import Path

from mdrepro.papers import ledger
from mdrepro.reproduce.workflow.fingerprint import changes, code, fingerprint
from mdrepro.reproduce.workflow.parameters import resolve
from tests.support.checkout import NOTEBOOK, TABLE


def _now(*settings: str) -> dict:
    table = ledger.find(TABLE)
    return fingerprint(table, resolve(table, "quick", settings))


def test_equal_work_has_equal_fingerprints_and_survives_json(workspace: Path) -> None:
    before = _now()
    assert changes(json.loads(json.dumps(before)), _now()) == []


def test_outputs_and_markdown_do_not_count_but_code_does(workspace: Path) -> None:
    before = _now()
    path = workspace / NOTEBOOK
    book = json.loads(path.read_text())
    book["metadata"]["author"] = "someone"
    book["cells"][1]["execution_count"] = 7
    path.write_text(json.dumps(book))
    assert changes(before, _now()) == []
    book["cells"][1]["source"] = "".join(book["cells"][1]["source"]) + "\nprint(1)"
    path.write_text(json.dumps(book))
    assert changes(before, _now()) == [f"code changed: {NOTEBOOK}"]


def test_a_changed_parameter_is_named_with_both_values(workspace: Path) -> None:
    assert changes(_now(), _now("steps=5")) == ["parameter steps: 3 → 5"]


def test_a_changed_folder_counts(workspace: Path) -> None:
    folder = workspace / "pictures"
    folder.mkdir()
    before = _now(f"photos={folder}")
    (folder / "a.png").write_bytes(b"1")
    assert changes(before, _now(f"photos={folder}")) == ["inputs changed: photos"]


def _package(home: Path, **modules: str) -> None:
    (home / "mdrepro").unlink()
    (home / "mdrepro").mkdir()
    for name, source in {"__init__": "", **modules}.items():
        (home / "mdrepro" / f"{name}.py").write_text(source)


def test_only_modules_that_are_imported_count(workspace: Path) -> None:
    """Direct, through another module, inside a function, and the parents' __init__; nothing else."""
    _package(workspace, a="def f():\n    from mdrepro import b\n", b="import torch\n", unused="x = 1\n")
    found = code(["from mdrepro.a import f\n"])
    assert sorted(found) == ["mdrepro/__init__.py", "mdrepro/a.py", "mdrepro/b.py"]
    (workspace / "mdrepro/unused.py").write_text("x = 2\n")
    assert code(["from mdrepro.a import f\n"]) == found
    (workspace / "mdrepro/b.py").write_text("import numpy\n")
    assert changes({"code": found}, {"code": code(["from mdrepro.a import f\n"])}) == ["code changed: mdrepro/b.py"]


def test_the_real_notebooks_see_their_modules() -> None:
    cost = fingerprint(ledger.find(TABLE), {})["code"]
    assert {
        "mdrepro/metrics/cost/measure.py",
        "mdrepro/models/mobilediffusion/unet.py",
        "mdrepro/reproduce/workflow/record.py",
    } <= set(cost)
    assert "mdrepro/training/objectives/autoencoder.py" not in cost
