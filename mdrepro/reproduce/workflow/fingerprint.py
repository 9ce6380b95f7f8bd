"""What a run rests on, hashed: the notebook's code, the package modules it imports, its parameters and files.

Two equal fingerprints mean that a rerun would repeat the same work; the difference between two is the reason for one.
"""

import ast
import functools
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput, NotAttempted
from mdrepro.core.files import digest, sha256
from mdrepro.core.paths import PACKAGE, root
from mdrepro.papers.schema import Table, TierRun
from mdrepro.reproduce.workflow import cells

Fingerprint = dict[str, dict[str, Any]]
SCHEDULING = {"tiers", "not_at", "on_request", "threads", "memory_gb", "hours", "title"}
"""Fields of a table that say when it runs, not what it is."""
MAKERS = frozenset(
    f"mdrepro.training.{name}" for name in ("recipes.registry", "runs.build", "objectives.kinds", "objectives.inputs")
)
"""What makes checkpoints, which the recipes' keys stand for: not followed where a table declares its networks."""


@functools.cache
def _imports(source: str) -> frozenset[str]:
    """Names of ``mdrepro`` modules that a source may import (absolute imports anywhere in it, functions included)."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(name for name in names if name.split(".")[0] == "mdrepro")


def code(sources: list[str], without: frozenset[str] = frozenset()) -> dict[str, str]:
    """SHA-256 of every package module that ``sources`` import, directly or through others, by relative path.

    Modules named in ``without``, and what they alone import, do not count.
    """
    queue = set[str]().union(*map(_imports, sources))
    files: dict[str, str] = {}
    home = root() if (root() / PACKAGE.name).is_dir() else PACKAGE.parent  # a working copy holds no package
    seen = {"", *without}
    while queue := queue - seen:
        name = queue.pop()
        seen.add(name)
        queue.add(name.rpartition(".")[0])
        stem = home.joinpath(*name.split("."))
        if file := next((file for file in (stem.with_suffix(".py"), stem / "__init__.py") if file.is_file()), None):
            files[file.relative_to(home).as_posix()] = sha256(file)
            queue |= _imports(file.read_text(encoding="utf-8"))
    return dict(sorted(files.items()))


def _contents(path: Path) -> str:
    """SHA-256 of a file, or of the names, sizes and times of a folder's files."""
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return digest([(file.relative_to(path).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files])


def _recipe(name: str) -> str:
    """What a recipe's checkpoint is and how it is sampled, hashed; or why that cannot be known here."""
    runs: Any = importlib.import_module("mdrepro.training.runs.store")  # no statement: `code` would follow it
    try:
        return digest(runs.stamp(name))
    except (BadInput, NotAttempted) as error:
        return f"not known: {error}"


def fingerprint(table: Table, parameters: dict[str, Any]) -> Fingerprint:
    """The fingerprint of one table's run.

    ``code``, ``parameters``, ``inputs`` (paths among the parameters), ``recipes`` (whose checkpoints the tier's rows
    take, by all training seeds of the run) and ``papers`` (the table, and how the tier's rows are made).
    """
    assert table.notebook
    sources = cells.code(root() / table.notebook)
    python = [cells.python(source, root() / table.notebook) for source in sources]
    paths = {name: Path(value) for name, value in parameters.items() if isinstance(value, str) and "/" in value}
    run = table.tiers.get(parameters.get("tier", "quick"), TierRun())
    recipes = run.recipes(parameters.get("seeds"))
    declared = run.model_dump(mode="json", include={"networks", "scorers"}) if recipes else {}
    return {
        "code": {table.notebook: digest(sources)} | code(python, MAKERS if recipes else frozenset()),
        "parameters": parameters,
        "inputs": {name: _contents(path) for name, path in paths.items() if path.exists()},
        "recipes": {name: _recipe(name) for name in recipes},
        "papers": {table.id: digest(table.model_dump(mode="json", exclude=SCHEDULING) | declared)},
    }


def first_three(changed: Sequence[str]) -> str:
    """Some of `changes`, in one line."""
    return "; ".join(changed[:3]) + (f" (and {len(changed) - 3} more)" if len(changed) > 3 else "")


def changes(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs between two fingerprints, in words; empty when nothing does."""
    words = []
    for kind, new in now.items():
        old = before.get(kind, {})
        for key in sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key)):
            how = "new" if key not in old else "gone" if key not in new else "changed"
            values = f"parameter {key}: {old.get(key)!r} → {new.get(key)!r}"
            words.append(values if kind == "parameters" else f"{kind} {how}: {key}")
    return words
