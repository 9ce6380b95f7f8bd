"""``mdrepro init``: a folder to work in, where the package was installed without a checkout."""

from pathlib import Path
from typing import Annotated

import typer


def init(folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New, or empty.")]) -> None:
    """Lay out a working copy: notebooks, published results, a folder for runs and environment.yml."""
    from mdrepro.core.paths import lay_out

    lay_out(folder)
    print(f"{folder}: in it, mdrepro reproduce runs the notebooks and jupyter lab notebooks opens them")
