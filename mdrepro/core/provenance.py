"""Where a number comes from: commit, parameters, hardware, versions, and the hashes of everything it rests on."""

import datetime
import importlib.metadata
import importlib.util
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from mdrepro.core.files import sha256
from mdrepro.core.machine import hardware
from mdrepro.core.paths import relative, root

PACKAGES = ("torch", "torchvision", "diffusers", "numpy", "scikit-image", "lpips", "torchmetrics", "papermill")
Input = tuple[str, Path]
"""Name and file. The name is ``package:<package>/<file>`` or a path relative to the root, never one machine's path."""


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        return subprocess.check_output(command, cwd=root(), stderr=subprocess.DEVNULL, text=True, timeout=30).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def commit() -> str | None:
    """The checked-out commit, or None where the root is not the top of a git checkout."""
    top = _git("rev-parse", "--show-toplevel")
    return _git("rev-parse", "HEAD") if top and Path(top).resolve() == root() else None


def dirty() -> list[str]:
    """Files whose content is not the commit's; ``results/`` and ignored files do not count."""
    status = _git("status", "--porcelain", "--untracked-files=all", "--", ".", ":(exclude)results")
    if status is None:
        return ["(git status failed)"]
    return sorted(line[2:].strip() for line in status.splitlines())


def state() -> dict[str, Any]:
    """Commit and local changes at this moment."""
    changed = dirty()
    return {"commit": commit(), "dirty": bool(changed), "changed_files": changed[:50]}


def locate(name: str) -> Path | None:
    """The file that an input's name stands for, or None when it is gone."""
    path: Path | None = root() / name
    if name.startswith("package:"):
        package, _, inner = name.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package)
        folders = list(spec.submodule_search_locations or []) if spec else []
        path = Path(folders[0]) / inner if folders else None
    return path if path and path.exists() else None


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those packages that are installed here, by name."""
    versions = {}
    for package in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def provenance(
    parameters: Mapping[str, Any], inputs: Sequence[Input] = (), checkpoints: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Everything needed to trace a number measured by this process, as plain JSON values, apart from its `state`."""
    lock = root() / "requirements.lock"
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(time.time() - psutil.Process().create_time(), 1),
        "parameters": dict(parameters),
        "seed": parameters.get("seed"),
        "hardware": hardware(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "lock_sha256": sha256(lock) if lock.is_file() else None,
        "inputs": {name: sha256(path) for name, path in inputs},
        "checkpoints": {
            name: {"path": relative(path), "sha256": sha256(path)} for name, path in (checkpoints or {}).items()
        },
    }
