"""The cells of a notebook, read without running it, and the Python in them."""

import ast
import re
from pathlib import Path

from pydantic import BaseModel

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import relative
from mdrepro.core.reading import checked, read_json

_MAGIC = re.compile(r"^(\s*)(?:[%!].*|(?:\w[\w., ]*=\s*)?[%!]\w.*|\??\w[\w.]*\?{1,2}\s*)$", re.MULTILINE)
"""A line of IPython's own: ``%matplotlib inline``, ``files = !ls``, ``name?``."""


class _Metadata(BaseModel):
    tags: list[str] = []


class Cell(BaseModel):
    """One cell: its kind, its source and its tags."""

    cell_type: str
    source: str | list[str] = ""
    metadata: _Metadata = _Metadata()

    @property
    def text(self) -> str:
        """The source as one text."""
        return "".join(self.source)


def read(notebook: Path) -> list[Cell]:
    """The cells of a notebook. Raises BadInput, which names it, where it cannot be read or is none."""
    try:
        content = read_json(notebook, dict[str, object])
        cells: list[Cell] = checked(content.get("cells"), list[Cell], "cells", strict=None)
    except BadInput as error:
        raise BadInput(f"{relative(notebook)}: not a readable notebook ({error})") from None
    return cells


def code(notebook: Path) -> list[str]:
    """The sources of a notebook's code cells. Raises BadInput as `read`."""
    return [cell.text for cell in read(notebook) if cell.cell_type == "code"]


def python(source: str, notebook: Path) -> str:
    """A cell's Python, without lines of IPython's own. Raises BadInput, which names the notebook, for other text.

    A cell in another language (``%%bash``) has none.
    """
    without = _MAGIC.sub(r"\1pass", source)
    for text in (source, without, "" if source.lstrip().startswith("%%") else without):
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            reason = error
        else:
            return text
    raise BadInput(f"{relative(notebook)}: a cell is no Python: {reason}")
