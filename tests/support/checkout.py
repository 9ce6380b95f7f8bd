"""The toy table and notebook of the checkouts that tests work in, and finished runs of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from matplotlib.figure import Figure

from mdrepro.core.files import file_hashes, replacing_folder, write_json
from mdrepro.core.provenance import state
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import fingerprint
from mdrepro.reproduce.workflow.folders import run_folder
from mdrepro.reproduce.workflow.parameters import resolve
from mdrepro.reproduce.workflow.record import RUN, record

REPOSITORY = Path(__file__).resolve().parents[2]
TABLE = "mobilediffusion-unet-cost"
NOTEBOOK = "notebooks/mobilediffusion/unet_cost.ipynb"

Cli = Callable[..., subprocess.CompletedProcess[str]]
"""``mdrepro`` with these arguments, in a process of its own."""

PARAMETERS = """\
tier: str = "quick"  # in {quick, proxy, paper}: size of the run
factor: float = 1.0  # in [0, 10]: what the measured number is multiplied by
steps: int = 3  # in [1, 100]: steps of work
models: list[str] = ["sd15"]  # in {sd15, sd21}: networks
photos: str = "packages"  # in path or {packages}: photographs
fail: str = "no"  # in {no, error, input}: how the notebook fails
"""
WORK = """\
import random
import time
from mdrepro.core.errors import BadInput
from mdrepro.reproduce.workflow.record import record
from mdrepro.evaluation.rows import Row

print("photographs from", photos)
chance = random.Random(steps)
total = 0.0
for step in range(steps):
    print("step", step, flush=True)
    total += chance.random()
    time.sleep(0.2)
if fail == "error":
    raise RuntimeError("the toy broke")
if fail == "input":
    raise BadInput("cat.png is not an image; allowed are png and jpg")
rows = [Row(name, "params", 859.52 * factor, "toy") for name in models]
rows.append(Row("sd15", "flops", total, "toy"))
"""


def notebook(*cells: str) -> nbformat.NotebookNode:
    """A notebook of code cells, the first tagged ``parameters``."""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.cells[0].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return book


def row(value: float | None = 859.52, **fields: Any) -> Row:
    """A row of ``TABLE``."""
    base = {"row": "sd15", "column": "params", "protocol": "toy"}
    return Row(**(base | {"value": value} | fields))


def figure() -> Figure:
    """Of one line."""
    plot = Figure()
    plot.subplots().plot([1, 2])
    return plot


def make_run(
    monkeypatch: pytest.MonkeyPatch, rows: list[Row] | None = None, settings: tuple[str, ...] = (), **more: Any
) -> Path:
    """A batch run as the runner makes one, without a kernel; ``more`` goes to `record`. Returns its folder."""
    table = ledger.find(TABLE)
    values = resolve(table, "quick", settings)
    folder = run_folder("quick", TABLE, values)
    with replacing_folder(folder) as aside:
        run = {"table": TABLE, "parameters": values, "fingerprint": fingerprint(table, values), "folder": str(aside)}
        run |= {"prefix": sys.prefix, "state": state()}
        monkeypatch.setenv(RUN, json.dumps(run))
        record(TABLE, [row()] if rows is None else rows, figures={"cost": figure()}, **more)
        (aside / "notebook.ipynb").write_text("{}")
        result = results.read(aside / "result.json")
        sealed = results.seal(result | {"files": file_hashes(aside, [*result["files"], "notebook.ipynb"])})
        write_json(aside / "result.json", sealed)
    monkeypatch.delenv(RUN)
    return folder
