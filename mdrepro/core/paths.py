"""Where things are: the repository root, or what stands for it, and the folders of runs and published results."""

import functools
import os
import shutil
from pathlib import Path

from mdrepro.core.errors import BadInput

WORKING = ("notebooks", "papermill_runs")  # what a working copy has, whatever else

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = PACKAGE / "checkout"
"""In wheels alone: notebooks, published results and other files of a checkout."""


def shipped(name: str) -> Path:
    """A file that lies beside the package in a checkout, and inside it in a wheel."""
    return (SHIPPED if SHIPPED.is_dir() else PACKAGE.parent) / name


@functools.cache
def root() -> Path:
    """Where notebooks, runs and results are.

    ``$MDREPRO_ROOT``, else the checkout that this package is installed from. Where it was installed from a wheel: the
    working copy that this process was started in (`mdrepro init` makes one), or else what the wheel holds, for reading.
    Raises BadInput where ``$MDREPRO_ROOT`` holds no ``notebooks`` folder.
    """
    given = os.environ.get("MDREPRO_ROOT")
    folder = Path(given).resolve() if given else PACKAGE.parent
    if not given and SHIPPED.is_dir():
        here = Path.cwd()
        copies = (each for each in (here, *here.parents) if all((each / name).is_dir() for name in WORKING))
        folder = next(copies, SHIPPED)
    if not (folder / "notebooks").is_dir():
        raise BadInput(
            f"{folder} holds no notebooks folder: run mdrepro from an editable install of a checkout, "
            "or set MDREPRO_ROOT to one"
        )
    return folder


def check_working_copy() -> None:
    """Raises BadInput where runs cannot be kept: outside a working copy, with the package from a wheel."""
    if root() == SHIPPED:
        raise BadInput("this is no working copy: mdrepro init FOLDER makes one, and in it this command runs")


def data() -> Path:
    """The folder of downloaded data and weights: ``data/`` (not committed); outside a working copy the user's cache."""
    if root() != SHIPPED:
        return root() / "data"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mdrepro" / "data"


def runs() -> Path:
    """The folder of this machine's runs: ``papermill_runs/`` (not committed)."""
    return root() / "papermill_runs"


def runs_of(tier: str, table: str) -> Path:
    """``papermill_runs/<tier>/<table>/``: the runs of one table, by their parameters."""
    return runs() / tier / table


def published(tier: str) -> Path:
    """The folder of published results: ``results/<tier>/`` (committed)."""
    return root() / "results" / tier


def publishing() -> Path:
    """The lock of what changes published files, for `mdrepro.core.locks.hold`."""
    return runs() / ".publishing.lock"


def relative(path: Path) -> str:
    """``path`` as written in records: relative to the root where it lies inside, as given elsewhere."""
    resolved = path.resolve()
    return resolved.relative_to(root()).as_posix() if resolved.is_relative_to(root()) else str(path)


def lay_out(folder: Path) -> None:
    """Make a working copy of a new or empty folder: what runs need beside the package, and a place for them.

    Raises BadInput where the folder holds something, or is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is not empty: choose a new or an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("notebooks", "results", "papermill_runs/README.md", "environment.yml"):
        source, copy = shipped(name), folder / name
        copy.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(".*"))
        else:
            shutil.copyfile(source, copy)
