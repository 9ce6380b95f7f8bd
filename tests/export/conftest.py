"""A small text-to-image system and its LiteRT files, made once."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.small_system import build


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the system as a diffusers pipeline."""
    folder = tmp_path_factory.mktemp("tiny") / "tiny"
    build().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def exported(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder with its LiteRT files in every precision, and what the export says of them."""
    from mdrepro.export import commands

    out = tmp_path_factory.mktemp("exported")
    return out, commands.export(str(tiny), out, precisions=("fp32", "fp16", "int8"), threads=1)
