"""Captions of a folder's images from a file: by name, or one a line in the images' order. Imports no torch."""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mdrepro.core.errors import BadInput
from mdrepro.core.reading import read_json_lines
from mdrepro.data import prompts

logger = logging.getLogger(__name__)


def read(file: Path, images: Sequence[Path]) -> list[str]:
    """A caption for each image, in the order of ``images``, which are sorted by name.

    A ``.jsonl`` whose objects have ``file_name`` and ``text`` gives captions by name. Any other file gives one a line,
    as `mdrepro.data.prompts.read`, for images by number where their names differ in it alone (2.png, 10.png), and else
    as they are sorted; where the two orders differ, a warning names both.

    Raises BadInput for a file that cannot be read, an image without a caption, or another number of captions.
    """
    if file.suffix.lower() == ".jsonl" and (named := _named(file)) is not None:
        return by_name(named, file, images)
    texts = prompts.read(file)
    if len(texts) != len(images):
        counts = f"{images[0].parent} holds {len(images)} images, and {file} {len(texts)} captions"
        raise BadInput(f"{counts}: one for each is needed")
    captioned = dict(zip(_in_order(images, file), texts, strict=True))
    return [captioned[image] for image in images]


def by_name(texts: Mapping[str, str], file: Path, images: Sequence[Path]) -> list[str]:
    """The text of each image by its file name; ``file`` is named in errors. Raises BadInput where one has none."""
    if lacking := [image.name for image in images if image.name not in texts]:
        raise BadInput(f"{file} has no caption for {lacking[0]}: one for each image is needed")
    return [texts[image.name] for image in images]


def _in_order(images: Sequence[Path], captions: Path) -> list[Path]:
    longest = max(len(image.stem) for image in images)
    padded = {image: re.sub("[0-9]+", lambda number: number[0].zfill(longest), image.stem) for image in images}
    by_text, by_number = list(images), sorted(images, key=lambda image: (padded[image], image.name))
    if by_number == by_text:
        return by_text
    alike = len({re.sub("[0-9]+", "0", image.stem) for image in images}) == 1
    number, text = (", ".join(image.name for image in order[:3]) for order in (by_number, by_text))
    orders = [f"by number ({number}, ...)", f"by text ({text}, ...)"]
    taken, other = orders if alike else orders[::-1]
    doubt = "a .jsonl with file_name and text leaves no doubt"
    logger.warning("captions of %s go to images %s, not %s; %s", captions, taken, other, doubt)
    return by_number if alike else by_text


def _named(file: Path) -> dict[str, str] | None:
    """Captions by file name, or None where lines have no file names."""
    try:
        lines = read_json_lines(file)
    except BadInput as error:
        raise BadInput(f"--captions {file} cannot be read ({error}): one JSON object a line is needed") from error
    if not lines or not all(isinstance(line, dict) and "file_name" in line for line in lines):
        return None
    named: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, text = line["file_name"], line.get("text")
        if not isinstance(name, str) or not isinstance(text, str) or name in named:
            expected = '{"file_name": "0.png", "text": "a cat"}, once for each image'
            raise BadInput(f"--captions {file}, object {number}: expected {expected}")
        named[name] = text
    return named
