"""Checkpoints of a run: folders of safetensors and one JSON, which appear whole or not at all; the last two are kept.

<root>/step-00000500/<name>.safetensors ...   tensors
                     state.json               step, hashes of the files, whatever else is no tensor, and its own hash
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mdrepro.core import files
from mdrepro.core.errors import BadInput
from mdrepro.core.files import digest, remove, replacing_folder, sha256, write_json
from mdrepro.core.reading import checked, inside, read_json

KEPT = 2
STATE, SEAL = "state.json", "seal"
PLACE = re.compile(r"step-(\d{8,})")


def place(root: Path, step: int) -> Path:
    """The folder of the checkpoint after ``step`` steps."""
    return root / f"step-{step:08}"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint: its folder, the steps done, and the state that was saved with it."""

    folder: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file, on the CPU. Raises BadInput where it is missing or no safetensors."""
        file = self.folder / f"{name}.safetensors"
        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise _damaged(self.folder, f"{file.name}: {error}") from error


def save(root: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
    """Write a checkpoint aside, rename it into the folder of a run's checkpoints, and remove all but the last ones.

    ``tensors``: by file, by name; on the CPU. ``state``: what JSON can hold.
    """
    with replacing_folder(place(root, step)) as aside:
        for name, named in tensors.items():
            save_file(_apart(named), aside / f"{name}.safetensors", metadata={"format": "pt"})
        hashes = {file.name: sha256(file) for file in sorted(aside.iterdir())}
        record = json.loads(json.dumps({"step": step, "sha256": hashes, "state": state}))
        write_json(aside / STATE, record | {SEAL: digest(record)})
    for old in _folders(root)[:-KEPT]:
        remove(old)


def latest(root: Path) -> Checkpoint | None:
    """The newest checkpoint, its files' hashes checked; None if there is none. Raises BadInput where it is damaged."""
    folders = _folders(root)
    if not folders:
        return None
    folder = folders[-1]
    try:
        record = read_json(folder / STATE, dict[str, Any])
        seal = record.pop(SEAL, None)  # those of older versions have none
        if record.keys() != {"step", "sha256", "state"} or seal not in (None, digest(record)):
            raise BadInput(f"{STATE} is not what was written")
        saved = Checkpoint(folder, checked(record["step"], int, STATE), checked(record["state"], dict[str, Any], STATE))
        hashes = checked(record["sha256"], dict[str, str], STATE)
        for name in hashes:
            inside(folder, name, STATE)
    except BadInput as error:
        raise _damaged(folder, str(error)) from error
    for name, written in hashes.items():
        if not (folder / name).is_file():
            raise _damaged(folder, f"{name} is missing")
        if sha256(folder / name) != written:
            raise _damaged(folder, f"{name} is not what was written")
    return saved


def clear(root: Path) -> None:
    """Remove all checkpoints."""
    if root.exists():
        shutil.rmtree(root)


def sweep(root: Path) -> None:
    """Remove what killed runs left half-written or half-removed; what was moved away gets its name back."""
    files.sweep(root)
    for left in root.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def _folders(root: Path) -> list[Path]:
    steps = {path: int(match[1]) for path in root.glob("step-*") if (match := PLACE.fullmatch(path.name))}
    return sorted(steps, key=steps.__getitem__)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory, as safetensors wants them."""
    separate, seen = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        separate[name] = tensor.clone().contiguous() if memory in seen else tensor.contiguous()
        seen.add(memory)
    return separate


def _damaged(folder: Path, reason: str) -> BadInput:
    folders = _folders(folder.parent)
    older = folders[: folders.index(folder)] if folder in folders else []
    next_step = f"go on from {older[-1].name}" if older else "begin anew"
    return BadInput(f"{folder} is no whole checkpoint ({reason}); remove that folder to {next_step}")
