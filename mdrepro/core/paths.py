"""Where things are: the repository root and the folders of runs and published results."""

import functools
import os
from pathlib import Path

from mdrepro.core.errors import BadInput


@functools.cache
def root() -> Path:
    """The repository root: ``$MDREPRO_ROOT``, else the checkout that this package is installed from.

    Raises BadInput where that holds no ``notebooks`` folder.
    """
    given = os.environ.get("MDREPRO_ROOT")
    folder = Path(given).resolve() if given else Path(__file__).resolve().parents[2]
    if not (folder / "notebooks").is_dir():
        raise BadInput(
            f"{folder} holds no notebooks folder: run mdrepro from an editable install of a checkout, "
            "or set MDREPRO_ROOT to one"
        )
    return folder


def runs() -> Path:
    """The folder of this machine's runs: ``papermill_runs/`` (not committed)."""
    return root() / "papermill_runs"


def runs_of(tier: str, table: str) -> Path:
    """``papermill_runs/<tier>/<table>/``: the runs of one table, by their parameters."""
    return runs() / tier / table


def published(tier: str) -> Path:
    """The folder of published results: ``results/<tier>/`` (committed)."""
    return root() / "results" / tier


def relative(path: Path) -> str:
    """``path`` as written in records: relative to the root where it lies inside, as given elsewhere."""
    resolved = path.resolve()
    return resolved.relative_to(root()).as_posix() if resolved.is_relative_to(root()) else str(path)
