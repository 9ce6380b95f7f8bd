"""A checkout of its own for each test: the real package, a toy notebook, empty runs and results."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from mdrepro.core import paths

REPOSITORY = Path(__file__).resolve().parents[1]
TABLE = "mobilediffusion-unet-cost"
NOTEBOOK = "notebooks/mobilediffusion/unet_cost.ipynb"

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
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.cells[0].metadata["tags"] = ["parameters"]
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return made


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root of a clean git checkout whose only notebook is the toy one, for table ``TABLE``."""
    home = tmp_path / "checkout"
    (home / NOTEBOOK).parent.mkdir(parents=True)
    (home / "mdrepro").symlink_to(REPOSITORY / "mdrepro")
    (home / "requirements.lock").write_text("toy==1.0\n")
    (home / ".gitignore").write_text("papermill_runs/\n.snakemake/\n")
    nbformat.write(notebook(PARAMETERS, WORK, f'record("{TABLE}", rows)'), home / NOTEBOOK)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "toy"],
    ):
        subprocess.run(["git", *command], cwd=home, check=True)
    monkeypatch.setenv("MDREPRO_ROOT", str(home))
    monkeypatch.delenv("MDREPRO_RUN", raising=False)
    paths.root.cache_clear()
    yield home
    paths.root.cache_clear()


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(workspace: Path) -> Cli:
    """Runs ``mdrepro`` as a user would, in the workspace."""

    def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mdrepro", *arguments]
        return subprocess.run(
            command, cwd=workspace, env=os.environ | {}, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def cli_run(capsys):
    """``mdrepro`` in this process: exit code, standard output and standard error."""
    from mdrepro.cli.app import main

    def run(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        out, error = capsys.readouterr()
        return code, out, error

    return run
