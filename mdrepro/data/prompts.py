"""Prompts from a file. Importing this module imports no torch."""

import json
import os
from pathlib import Path

from mdrepro.core.errors import BadInput


def read(path: str | os.PathLike[str]) -> list[str]:
    """The prompts of a UTF-8 file, in its order.

    A file called ``.jsonl`` holds one JSON object a line with the prompt under ``prompt``, which may be empty. Any
    other holds one prompt a line, without the white space around it. Blank lines of both are passed over, not counted.
    Raises BadInput where the file cannot be read or decoded, a line is no such object, or there is no prompt.
    """
    file = Path(path)
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"prompts: {file} cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInput(f"prompts: line {line} of {file} is not UTF-8; save the file as UTF-8") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise BadInput(f"prompts: {file} holds no prompt; needed is one a line")
    if file.suffix.lower() != ".jsonl":
        return [line for _, line in lines]
    return [_prompt(file, number, line) for number, line in lines]


def _prompt(file: Path, number: int, line: str) -> str:
    try:
        prompt = json.loads(line)["prompt"]
    except (ValueError, KeyError, TypeError):
        prompt = None
    if not isinstance(prompt, str):
        raise BadInput(f'prompts: line {number} of {file} is not a JSON object like {{"prompt": "a red star"}}')
    return prompt
