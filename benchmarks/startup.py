"""Start-up of the command line, and of the papers' data, against the libraries that each needs."""

import subprocess
import sys
import time
from pathlib import Path

import yaml

from benchmarks.table import Ratio, cpu_with_children, in_turn
from mdrepro.models import presets
from mdrepro.papers import ledger

NEEDED = "import typer, typer.main, rich.console, pydantic, yaml; pydantic.BaseModel"
NETWORKS = "import torch; from diffusers import UNet2DConditionModel; from transformers import CLIPTextModel"


def process(*arguments: str) -> None:
    """A Python of its own, its output unseen."""
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def commands() -> list[Ratio]:
    """``mdrepro`` against the import of what it cannot do without."""
    rows = []
    for arguments, peer, needed, bar, rounds in (
        (["--help"], "import of typer, rich, pydantic and yaml", NEEDED, 1.6, 5),
        (["list"], "import of typer, rich, pydantic and yaml", NEEDED, 2.5, 5),
        (["cost", *presets.names()], "import of typer, rich, pydantic and yaml", NEEDED, 4.0, 5),
        (["cost", *presets.names(), "--details"], "import of torch, a UNet and CLIP", NETWORKS, 1.5, 3),
    ):
        ours, theirs = in_turn(
            lambda arguments=arguments: process("-m", "mdrepro", *arguments),
            lambda needed=needed: process("-c", needed),
            rounds,
            cpu_with_children,
        )
        shown = " ".join(arguments).replace(" ".join(presets.names()), "(all networks)")
        rows.append(Ratio(f"mdrepro {shown}", peer, ours, theirs, "CPU s", bar, f"median of {rounds}"))
    return rows


def papers() -> list[Ratio]:
    """Loading both papers against what libyaml takes to parse their files."""
    texts = [file.read_text(encoding="utf-8") for file in Path(ledger.__file__).parent.glob("*.yaml")]
    ours, theirs = in_turn(
        lambda: ledger.papers.__wrapped__(),
        lambda: [yaml.load(text, yaml.CSafeLoader) for text in texts],
        5,
        time.process_time,
    )
    return [Ratio("loading the papers' data", "libyaml alone", ours, theirs, "CPU s", 2.5, "median of 5")]


def run() -> list[Ratio]:
    """All of this module."""
    return [*commands(), *papers()]
