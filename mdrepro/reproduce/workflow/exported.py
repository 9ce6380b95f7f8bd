"""Exported full-size networks, kept below ``papermill_runs/exported`` so that tables and reruns share them.

A folder holds one ``.tflite`` and ``export.json``: what it was made of, and how far it is from PyTorch. Its name is a
hash of the network, precision, resolution, branches, versions of the converters and of the code that exports. A folder
appears whole; one whose file is not the recorded one is exported again.
"""

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mdrepro.core.console import waiting
from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.core.files import digest, replacing_folder, sha256, sweep, write_json
from mdrepro.core.paths import runs
from mdrepro.core.provenance import installed
from mdrepro.core.reading import inside, read_json
from mdrepro.models import systems
from mdrepro.reproduce.workflow.fingerprint import code

ARITHMETIC: Mapping[str, str] = {
    **dict.fromkeys(("fp32", "fp16", "int8"), "float32 arithmetic"),
    "int8-dynamic": "8-bit products in convolutions and linear layers, float32 between them",
}
"""By precision of the weights: what LiteRT computes in on a processor."""
PACKAGES = (
    *("torch", "diffusers", "transformers", "litert-torch", "litert-converter"),
    *("ai-edge-torch", "ai-edge-litert", "ai-edge-quantizer"),
)
SOURCE = "from mdrepro.export import components, litert"
"""What makes a file: the modules that this imports, and those that they do."""
CHECKPOINTS = frozenset({"mdrepro.training.recipes.registry", "mdrepro.training.runs.commands"})
"""Of those, what is of trained networks alone."""
REPORT = "export.json"


@dataclass(frozen=True, order=True)
class Piece:
    """One network as it is exported: a preset of `systems.exports`, and the batch of a denoiser, 1 or 2, else 1."""

    network: str
    branches: int = 1

    def __post_init__(self) -> None:
        check("network to export", self.network, systems.exports())
        allowed = (1, 2) if self.component == "unet" else (1,)
        if self.branches not in allowed:
            raise BadInput(f"{self.network}: branches is {self.branches}: it must be {' or '.join(map(str, allowed))}")

    @property
    def model(self) -> str:
        """As ``mdrepro export`` names it."""
        return systems.exports()[self.network][0]

    @property
    def component(self) -> str:
        """As ``mdrepro export`` names it."""
        return systems.exports()[self.network][1]

    @property
    def title(self) -> str:
        """In print."""
        return f"{self.network}, batch {self.branches}" if self.branches > 1 else self.network


@dataclass(frozen=True)
class Kept:
    """An exported file, and its report: ``sha256``, ``bytes``, ``parity``, ``seconds`` by stage and more."""

    file: Path
    report: Mapping[str, Any]

    @property
    def psnr_db(self) -> float:
        """From torch's output, over the inputs that it was compared on."""
        return float(self.report["parity"]["psnr_db"])


def made_of(piece: Piece, precision: str, resolution: int) -> dict[str, Any]:
    """All that a file depends on, as JSON values. Raises BadInput for another precision."""
    check("precision", precision, ARITHMETIC)
    return {
        "model": piece.model,
        "component": piece.component,
        "precision": precision,
        "resolution": None if piece.component == "text-encoder" else resolution,
        "branches": piece.branches if piece.component == "unet" else None,
        "versions": dict.fromkeys(PACKAGES, "none") | installed(PACKAGES),
        "code": code([SOURCE], CHECKPOINTS),
    }


def folder(piece: Piece, wanted: Mapping[str, Any]) -> Path:
    """Where the file that is `made_of` these values is kept."""
    return runs() / "exported" / f"{piece.network}-{wanted['precision']}-{digest(wanted)[:16]}"


def find(piece: Piece, precision: str, resolution: int) -> Kept | None:
    """A file that is kept, or None where there is none, or not the one that was written."""
    return _find(piece, made_of(piece, precision, resolution))


def _find(piece: Piece, wanted: Mapping[str, Any]) -> Kept | None:
    place = folder(piece, wanted)
    try:
        kept = read_json(place / REPORT)
        file = inside(place, kept["export"]["file"], place / REPORT)
        if kept["made_of"] != wanted or sha256(file) != kept["export"]["sha256"]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Kept(file, kept["export"])


def get(piece: Piece, precision: str, resolution: int) -> Kept:
    """A file that is kept, or exported now, in a process of its own that returns its memory.

    Raises:
        BadInput: it cannot be exported so; the message says what can.
        NotAttempted: a package is missing.
        RuntimeError: the converter broke, or the file is too far from PyTorch.
    """
    wanted = made_of(piece, precision, resolution)
    sweep((place := folder(piece, wanted)).parent, place.name)
    if kept := _find(piece, wanted):
        return kept
    with replacing_folder(place) as new:
        asked = {name: value for name, value in wanted.items() if name not in ("versions", "code")}
        write_json(new / REPORT, {"made_of": wanted, "export": _export(asked | {"out": str(new)})})
    if kept := _find(piece, wanted):
        return kept
    raise RuntimeError(f"{piece.title}: the exported file is missing")


def _export(asked: Mapping[str, Any]) -> dict[str, Any]:
    what = f"{asked['model']} {asked['component']}"
    command = [sys.executable, "-m", __name__, json.dumps(asked)]
    with waiting(f"exporting {what}"):  # minutes for a full-size network
        process = subprocess.run(command, capture_output=True, text=True, errors="replace")
    answer: dict[str, Any] = {}
    with suppress(IndexError, ValueError):
        answer = json.loads(process.stdout.splitlines()[-1])
    if "export" in answer:
        return dict(answer["export"])
    if process.returncode < 0:
        raise RuntimeError(f"the export of {what} was killed by signal {-process.returncode}; memory may have run out")
    kinds = {"BadInput": BadInput, "NotAttempted": NotAttempted}
    why = answer.get("error") or (process.stderr.strip().splitlines() or ["no error message"])[-1]
    raise kinds.get(answer.get("kind", ""), RuntimeError)(f"{what} cannot be exported: {why}")


def main(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Export in this process; its report or its error. Imports the converter, so that tables see a change of it."""
    from mdrepro.export import commands
    from mdrepro.export.parity import GateMissed

    options: dict[str, Any] = {name: asked[name] for name in ("resolution", "branches")}
    options |= {"wanted": [asked["component"]], "precisions": [asked["precision"]]}
    try:
        report = commands.export(asked["model"], Path(asked["out"]), **options)
    except (BadInput, NotAttempted, GateMissed) as error:
        return {"kind": type(error).__name__, "error": str(error)}
    return {"export": report["files"][0]}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
