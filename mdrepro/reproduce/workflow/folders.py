"""Where the runs of a table are kept: ``papermill_runs/<tier>/<table>/<key>/``, a folder for each set of parameters.

The key is a hash of all parameters, so that a run with other parameters never takes the place of the run of the
defaults. Beside the folders: ``latest``, a link to the run that ended last, and ``<key>.failed/`` of one that failed.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.files import digest, replacing
from mdrepro.core.paths import root, runs, runs_of
from mdrepro.papers import ledger
from mdrepro.papers.schema import Tier
from mdrepro.reproduce.workflow.parameters import resolve

NOTEBOOK, RESULT, ERROR, PARAMETERS = "notebook.ipynb", "result.json", "error.json", "parameters.json"
LATEST = "latest"
_KEY = re.compile("[0-9a-f]{12}")


def key(parameters: Mapping[str, Any]) -> str:
    """Twelve digits of the hash of all parameters of a run, the tier among them."""
    return digest(dict(parameters))[:12]


def run_folder(tier: str, table: str, parameters: Mapping[str, Any]) -> Path:
    """The folder of a table's run with these parameters, which are all that its notebook declares."""
    return runs_of(tier, table) / key(parameters)


def defaults(tier: Tier, table: str) -> dict[str, Any]:
    """A table's parameters at a tier where none is set; empty where it does not run there or is not known."""
    try:
        spec = ledger.find(table, planned=True)
    except BadInput:
        return {}
    runs_here = spec.notebook and tier in spec.tiers and (root() / spec.notebook).is_file()
    return resolve(spec, tier) if runs_here else {}


def default_run(tier: Tier, table: str) -> Path:
    """The folder of a table's run with the tier's default parameters, whether there is one or not."""
    return run_folder(tier, table, defaults(tier, table))


def changed(tier: Tier, table: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's parameters that are not the tier's defaults."""
    usual = defaults(tier, table)
    return {name: value for name, value in parameters.items() if name not in usual or usual[name] != value}


def failed(folder: Path) -> Path:
    """Where the run of ``folder`` keeps its partial notebook if it fails."""
    return folder.with_name(f"{folder.name}.failed")


def every(tier: str, table: str = "*") -> Iterator[Path]:
    """The folder of every run of one table, or of all, that ended well, in the order of their names."""
    for result in sorted((runs() / tier).glob(f"{table}/*/{RESULT}")):
        if _KEY.fullmatch(result.parent.name):
            yield result.parent


def begun(tier: str, table: str) -> Iterator[Path]:
    """The folder of every run of a table that ended well or failed, or is at work, in the order of their names."""
    names = {path.name.removesuffix(".failed") for path in runs_of(tier, table).glob("*") if path.is_dir()}
    yield from (runs_of(tier, table) / name for name in sorted(names) if _KEY.fullmatch(name))


def named(tier: str, table: str, name: str) -> Path:
    """The folder of the run whose key begins with ``name``, or of the latest. Raises BadInput: none, or several."""
    if name == LATEST:
        found = [folder for folder in [(runs_of(tier, table) / LATEST).resolve()] if (folder / RESULT).is_file()]
    else:
        found = [folder for folder in every(tier, table) if folder.name.startswith(name)]
    if len(found) != 1:
        allowed = ", ".join([LATEST, *(folder.name for folder in every(tier, table))])
        how = "several runs begin so" if found else "there is no such run"
        raise BadInput(f"run {name} of {table} at tier {tier}: {how}; allowed: {allowed}")
    return found[0]


def link_latest(folder: Path) -> None:
    """Have ``latest`` lead to this run, where the file system knows links."""
    with suppress(OSError), replacing(folder.with_name(LATEST)) as aside:
        aside.symlink_to(folder.name)
