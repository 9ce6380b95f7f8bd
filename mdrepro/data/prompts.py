"""Prompts from a file. Importing this module imports no torch."""

import csv
import io
import os
import re
from pathlib import Path
from typing import Any

from mdrepro.core.errors import BadInput
from mdrepro.core.reading import checked, read_json_lines, read_text

COLUMNS = ("prompt", "caption", "text")
"""What the column of prompts in a .csv is called; where several are there, the first of these."""
IMAGE = re.compile(r"\.(jpe?g|png|webp)$", re.IGNORECASE)
OTHERS = (".json", ".npz", ".parquet", ".pkl", ".safetensors", ".tsv", ".yaml", ".yml", ".xml")


def read(path: str | os.PathLike[str]) -> list[str]:
    """The prompts of a UTF-8 file, in its order.

    A file called ``.jsonl`` holds one JSON object a line with the prompt under ``prompt``, which may be empty. One
    called ``.csv`` begins with a header, of which a column is called as in `COLUMNS`, or has two columns, an image's
    file and its prompt (BK-SDM's metadata.csv; text2image-benchmark's files have ``text``). Any other holds one prompt
    a line, without the white space around it. Blank lines of all are passed over, not counted.

    Raises BadInput where the file cannot be read or decoded, is none of these, or there is no prompt.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if suffix in OTHERS:
        raise BadInput(f"prompts: {file} is no file of prompts: expected plain text, one a line, .jsonl or .csv")
    if suffix == ".jsonl":
        objects = read_json_lines(file, dict[str, Any])
        found: list[str] = [checked(one.get("prompt"), str, f"{file}, object {n}") for n, one in enumerate(objects, 1)]
    elif not (text := read_text(file)).strip():
        found = []
    elif suffix == ".csv":
        found = _column(file, text)
    else:
        found = [line.strip() for line in text.split("\n") if line.strip()]
    if not found:
        raise BadInput(f"prompts: {file} holds no prompt; needed is one a line")
    return found


def _column(file: Path, text: str) -> list[str]:
    """The column of prompts, without the header."""
    expected = f"expected a header with one of {', '.join(COLUMNS)}, or two columns: an image's file, and its prompt"
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if any(map(str.strip, row))]
    except csv.Error as error:
        raise BadInput(f"prompts: {file} is no CSV ({error}): {expected}") from error
    if not rows:
        return []
    names, *rows = [[cell.strip() for cell in row] for row in rows]
    lower = [name.lower() for name in names]
    column = next((lower.index(name) for name in COLUMNS if name in lower), None)
    if column is None and len(names) == 2 and rows and all(IMAGE.search(row[0]) for row in rows):
        column = 1
    if column is None or IMAGE.search(names[0]):
        raise BadInput(f"prompts: {file} begins with {', '.join(names)}: {expected}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names) or not row[column]:
            raise BadInput(
                f"prompts: row {number} of {file} after its header has no prompt or other columns: {expected}"
            )
    return [row[column] for row in rows]
