"""The way of one number, ``1/fid_shapes`` of mobilediffusion-steps, as docs/architecture.md lists it."""

import json
import re
import shutil
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from mdrepro.evaluation import networks
from mdrepro.papers import ledger
from mdrepro.reproduce import formatting
from mdrepro.reproduce.report import views
from mdrepro.reproduce.tables import steps
from mdrepro.reproduce.workflow.folders import default_run
from mdrepro.reproduce.workflow.record import RUN, record
from mdrepro.sampling import generate
from tests.support.checkout import REPOSITORY
from tests.support.experiments import VALUES, experiment, plant, resolved

STEPS, CELL = "mobilediffusion-steps", ("1-latent-gan", "fid_shapes")
BOOK = "notebooks/mobilediffusion/steps.ipynb"
VALUES_OF_ROWS = {"guidance": VALUES["guidance"]}
LISTED = re.compile(r"^\d\. `([\w./-]+)`(?:, `(\w+)`)?:", re.MULTILINE)


def section() -> str:
    text = (REPOSITORY / "docs/architecture.md").read_text()
    return text.partition("## One number's way")[2].partition("\n## ")[0]


def holds(found: Any, wanted: tuple[float, str], depth: int = 6) -> bool:
    """Whether the number, or its print, is somewhere inside."""
    if isinstance(found, float | str):
        return found in wanted
    if depth == 0:
        return False
    if is_dataclass(found) and not isinstance(found, type):
        return any(holds(getattr(found, field.name), wanted, depth - 1) for field in fields(found))
    if isinstance(found, dict):
        return any(holds(value, wanted, depth - 1) for value in found.values())
    return isinstance(found, list | tuple) and any(holds(value, wanted, depth - 1) for value in found)


def test_the_number_goes_through_the_listed_files_and_no_other(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, workspace / "papermill_runs/quick/checkpoints", "none")
    noise = torch.Generator().manual_seed(0)
    monkeypatch.setattr(
        generate,
        "images",
        lambda _, texts, **__: torch.randint(256, (len(texts), 3, 64, 64), generator=noise, dtype=torch.uint8),
    )
    monkeypatch.setattr(networks, "denoiser_gmacs", lambda _: 0.25)
    made = experiment(STEPS)
    scored = made.evaluation("shapes", 10)
    shutil.copy(REPOSITORY / BOOK, workspace / BOOK)
    folder = default_run("quick", STEPS)
    folder.mkdir(parents=True)
    run = {
        "table": STEPS,
        "prefix": sys.prefix,
        "parameters": resolved(STEPS, "quick") | VALUES_OF_ROWS,
        "fingerprint": {},
    }
    state = {"commit": None, "dirty": False, "changed_files": []}
    monkeypatch.setenv(RUN, json.dumps(run | {"folder": str(folder), "state": state}))
    returned: list[tuple[str, str, Any]] = []

    def note(frame: FrameType, event: str, value: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "return" and file.is_relative_to(REPOSITORY / "mdrepro") and "<" not in frame.f_code.co_name:
            returned.append((file.relative_to(REPOSITORY).as_posix(), frame.f_code.co_name, value))

    sys.setprofile(note)
    try:
        measured = made.measure(scored, seed=0)
        rows = steps.rows(made, measured, scored)
        record(STEPS, rows, experiment=made)
        shown = views.run_view(ledger.find(STEPS), "quick")
    finally:
        sys.setprofile(None)
    number = next(row.value for row in rows if (row.row, row.column) == CELL)
    assert number is not None
    assert shown is not None
    wanted = number, formatting.number(number, 4)
    traced = {file for file, _, value in returned if holds(value, wanted)}
    way, _, carriers = section().partition("Passed on")
    listed = LISTED.findall(way)
    assert len(listed) <= 8
    assert [name for name, _ in listed if not (REPOSITORY / name).is_file()] == []
    called = {(file, name) for file, name, _ in returned}
    assert [pair for pair in listed if pair[1] and pair not in called] == []
    files = {file for file, _ in listed if file.endswith(".py")} - {"mdrepro/evaluation/experiment.py"}
    assert traced == files | set(re.findall(r"`(mdrepro/[\w./]+)`", carriers))
