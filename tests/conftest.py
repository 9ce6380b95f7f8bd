"""A checkout of its own for each test: the real package, a toy notebook, empty runs and results."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of every test and all that it starts: tests run side by side

import multiprocessing.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from mdrepro.core import paths
from tests.support.checkout import NOTEBOOK, PARAMETERS, REPOSITORY, TABLE, WORK, Cli, notebook


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Files and single tests run in this process, which starts soonest; folders on all cores."""
    return 0 if all(".py" in argument for argument in config.args) else None


@pytest.fixture(scope="session", autouse=True)
def _temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests, and programs that they start, leave in the system's temporary folder goes when pytest's folder goes.

    Nothing here survives a loss of power, so nothing waits for the disk. The folder of multiprocessing's sockets is not
    moved: multiprocessing removes it, after pytest's are gone.
    """
    multiprocessing.util.get_temp_dir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("system")))
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _accelerate_anew() -> Iterator[None]:
    """accelerate keeps device and precision for a whole process: what one test asked for is not the next one's."""
    yield
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def _checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("checkout")
    (home / NOTEBOOK).parent.mkdir(parents=True)
    (home / "mdrepro").symlink_to(REPOSITORY / "mdrepro")
    (home / "requirements.lock").write_text("toy==1.0\n")
    (home / ".gitignore").write_text("papermill_runs/\n.snakemake/\n")
    nbformat.write(notebook(PARAMETERS, WORK, f'record("{TABLE}", rows)'), home / NOTEBOOK)
    for command in (
        ["init", "-q", "--template="],
        ["add", "-A"],
        ["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "toy"],
    ):
        subprocess.run(["git", *command], cwd=home, check=True)
    return home


@pytest.fixture
def workspace(_checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root of a clean git checkout whose only notebook is the toy one, for table ``TABLE``."""
    home = shutil.copytree(_checkout, tmp_path / "checkout", symlinks=True)
    monkeypatch.setenv("MDREPRO_ROOT", str(home))
    monkeypatch.delenv("MDREPRO_RUN", raising=False)
    paths.root.cache_clear()
    yield home
    paths.root.cache_clear()


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


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP of few tokens, as transformers saves it."""
    from tests.support import weight_files

    return weight_files.clip(tmp_path_factory.mktemp("clip"), weight_files.CLIP_TOKENS)
