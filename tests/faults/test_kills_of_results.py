"""Runs, published results, reports and exported files: a process ended at any file operation leaves old or new, whole.

``make faults`` tries every operation; ``make test`` some of each.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import papermill
import pytest

from mdrepro.core import files, plotting
from mdrepro.core.errors import BadInput
from mdrepro.core.files import ASIDE
from mdrepro.core.paths import published, runs_of
from mdrepro.export import commands, components, runner
from mdrepro.reproduce.report import api, build
from mdrepro.reproduce.workflow import notebook, plan, publish, results, verify
from mdrepro.reproduce.workflow.folders import default_run
from mdrepro.reproduce.workflow.record import record
from tests.support.checkout import TABLE, figure, make_run, row
from tests.support.kills import WHOLE, killed_at, report

SOME = 17
"""Every how many operations end a writer in ``make test``."""
FIRST, SECOND = 859.0, 861.0


def ended_everywhere(
    name: str, place: Path, write: Callable[[Path], Any], value: Callable[[], Any], kept: Path, *, mixed: bool = False
) -> None:
    """Ends ``write`` at its operations; ``place`` holds the old value at first. ``mixed``: neither may be there."""
    old = value()
    shutil.copytree(place, kept, symlinks=True)
    write(place)
    new = value()
    assert None not in (old, new)
    assert old != new
    number, seen = 0, list[str]()
    while True:
        shutil.rmtree(place)
        shutil.copytree(kept, place, symlinks=True)
        files._SWEPT.clear()  # as in a new process
        if not killed_at(number, write, place):
            break
        found = value()
        assert found in (old, new) or (mixed and found is None), f"operation {number}: {found}"
        seen.append("new" if found == new else "old")
        files._SWEPT.clear()
        write(place)
        assert value() == new, f"operation {number}: the next start"
        left = [path for path in place.rglob("*") if ASIDE.fullmatch(path.name)]
        assert not left, f"operation {number}: {left}"
        number += 1 if WHOLE else SOME
    assert len(seen) >= (10 if WHOLE else 1)
    assert not WHOLE or set(seen) == {"old", "new"}
    report(f"kills: {name}", len(seen))


def measured(folder: Path) -> float | None:
    """The value of a whole run, or of a published result."""
    if not folder.exists():
        return None
    assert verify.problems(folder) == []
    rows = {(one["row"], one["column"]): one["value"] for one in results.read(folder)["rows"]}
    return float(rows["sd15", "params"])


def test_a_run_of_a_table_is_the_old_or_the_new(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = SimpleNamespace(value=FIRST)

    def execute(_: Path, target: Path, **__: Any) -> None:
        target.write_text(json.dumps({"cells": [], "metadata": {}}))
        record(TABLE, [row(measure.value)], figures={"cost": figure()})

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    monkeypatch.setattr(plotting, "save", lambda _, stem: _drawn(stem, measure.value))
    for name in ("MDREPRO_RUN", "JUPYTER_PATH", "PYDEVD_DISABLE_FILE_VALIDATION", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # restored afterwards
    (job,) = plan.plan([TABLE], "quick", force=True)
    given = job.as_dict()

    def run(_: Path) -> None:
        notebook.run(given)

    run(job.folder)
    measure.value = SECOND
    place = runs_of("quick", TABLE)
    ended_everywhere("run of a table", place, run, lambda: measured(job.folder / "result.json"), tmp_path / "kept")


def test_published_results_are_the_old_or_the_new(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All files of a table together: numbers, CSV and figures, and what others published stays."""
    monkeypatch.setattr(plotting, "save", lambda _, stem: _drawn(stem, FIRST))
    make_run(monkeypatch, [row(FIRST)])
    publish.publish([TABLE], "quick")
    home = published("quick")
    (home / "checkpoints" / "a").mkdir(parents=True)
    (home / "checkpoints" / "a" / "weights").write_text("of another")
    monkeypatch.setattr(plotting, "save", lambda _, stem: _drawn(stem, SECOND))
    make_run(monkeypatch, [row(SECOND)])

    def value() -> float | None:
        assert list(verify._unnamed("quick")) == []
        assert (home / "checkpoints" / "a" / "weights").read_text() == "of another"
        return measured(home / f"{TABLE}.json")

    def put(_: Path) -> None:
        publish.publish([TABLE], "quick")

    ended_everywhere("published results", home.parent, put, value, tmp_path / "kept")


def _drawn(stem: Path, value: float) -> list[Path]:
    stems = [stem.with_suffix(kind) for kind in (".png", ".svg")]
    for file in stems:
        file.write_text(f"a line up to {value}")
    return stems


def test_publishing_adds_to_no_file_that_was_published(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy has the same files by hard links: another name of the old ones keeps what they held."""
    make_run(monkeypatch, [row(FIRST)])
    publish.publish([TABLE], "quick")
    before = {path: path.read_bytes() for path in published("quick").rglob("*") if path.is_file()}
    for path in before:
        os.link(path, path.with_name(f".{path.name}.kept"))
    make_run(monkeypatch, [row(SECOND)])
    publish.publish([TABLE], "quick")
    for path, content in before.items():
        assert path.with_name(f".{path.name}.kept").read_bytes() == content
    assert measured(published("quick") / f"{TABLE}.json") == SECOND
    assert default_run("quick", TABLE).is_dir()


def test_a_report_is_the_old_or_the_new(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = SimpleNamespace(value="first")

    def sphinx(_: Any, folder: Path, **__: Any) -> None:
        for name in ("index.html", "page.html"):
            (folder / name).write_text(shown.value)

    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "index.html").write_text("reference")
    monkeypatch.setattr(build, "sphinx", sphinx)
    monkeypatch.setattr(build, "_Sources", lambda *_: SimpleNamespace(texts={}))
    monkeypatch.setattr(build, "_inputs", lambda _: {"result": {"a": shown.value}})
    monkeypatch.setattr(api, "build", lambda *_: tmp_path / "api")
    place = tmp_path / "place"

    def make(_: Path) -> None:
        build.build(place / "site")

    def value() -> Any:
        site = place / "site"
        if not site.exists():
            return None
        pages = {(site / name).read_text() for name in ("index.html", "page.html")}
        assert (site / "api" / "index.html").read_text() == "reference"
        (page,) = pages | {json.loads((site / build.STAMP).read_text())["result"]["a"]}
        return page

    make(place)
    shown.value = "second"
    ended_everywhere("report", place, make, value, tmp_path / "kept")


def test_exported_files_are_each_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle beside networks that are not its own is refused, never run."""
    made = SimpleNamespace(value=b"1")
    model = SimpleNamespace(name="m", weights="w", pipeline=object(), component=lambda one, _: one)
    words = {"file": "tokenizer.json", "length": 9, "padding": 1, "unknown": 2}
    schedule = {"sampler": "ddim", "prediction": "epsilon", "levels": [0.9, 0.1]}

    def export(_: Any, component: str, __: Any, ready: Path, *___: Any) -> list[Any]:
        (ready / f"{component}-fp32.tflite").write_bytes(made.value * 999)
        return []

    def bundle(_: Any, ready: Path, *__: Any) -> dict[str, Any]:
        names = {one: f"{one}-fp32.tflite" for one in runner.NETWORKS}
        content = {"format": runner.FORMAT, "files": names, "steps": 8, "guidance": 1.0, "tokenizer": words}
        hashes = {one: files.sha256(ready / name) for one, name in names.items()}
        (ready / "tokenizer.json").write_text("{}")
        (ready / runner.bundle_name("fp32")).write_text(json.dumps(content | {"sha256": hashes, "schedule": schedule}))
        return {}

    monkeypatch.setattr(commands, "_export", export)
    monkeypatch.setattr(commands, "_bundle", bundle)
    monkeypatch.setattr(commands, "_head", lambda *_: {})
    monkeypatch.setattr(components, "find", lambda *_: model)
    monkeypatch.setattr(commands.TARGETS["litert"], "check", lambda *_: 0)
    place = tmp_path / "place"

    def write(folder: Path) -> None:
        commands.export("m", folder)

    def value() -> Any:
        for file in place.glob("*.tflite"):
            assert file.read_bytes() in (b"1" * 999, b"2" * 999)
        try:
            return dict(runner._read(place / runner.bundle_name("fp32"))["sha256"])
        except BadInput:
            return None

    write(place)
    made.value = b"2"
    ended_everywhere("exported files", place, write, value, tmp_path / "kept", mixed=True)
