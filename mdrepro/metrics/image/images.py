"""Folders of images for metrics: what is read, what is refused, and one pass over it with readers ahead.

Pixels are those that torch-fidelity, clean-fid and torchmetrics' users get from Pillow's ``convert("RGB")``: grey and
palette pictures become RGB, and an orientation in EXIF is not applied. What would be lost without a word there is an
error here: more than 8 bits a channel, and transparency. Images of one folder may differ in size.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import ImageFile
from torch import Tensor

from mdrepro.core import machine
from mdrepro.core.errors import BadInput
from mdrepro.data.pixels import FORMATS, opened, unread

Item = TypeVar("Item")
Done = TypeVar("Done")
READERS = min(8, machine.cores())
EXPECTED = "expected PNG, JPEG and WebP files with 8 bits a channel and no transparency"


def files(folder: str | os.PathLike[str]) -> list[Path]:
    """The images of a folder, by name. Subfolders, hidden files and files that are no pictures are passed over.

    Raises BadInput for no folder, no images, pictures of other formats, or links to pictures that lead nowhere.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"{folder} is no folder: a folder of images is needed")
    present = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    images = [file for file in present if file.suffix.lower() in FORMATS and file.is_file()]
    reasons = {file: unread(file) for file in present}
    if other := [file for file, reason in reasons.items() if reason == "is of another format"]:
        raise BadInput(f"{folder} holds {len(other)} pictures of other formats, such as {other[0].name}: {EXPECTED}")
    if broken := [file for file, reason in reasons.items() if reason]:
        raise BadInput(f"{folder} holds {len(broken)} links that lead nowhere, such as {broken[0].name}: {EXPECTED}")
    if not images:
        inside = " (subfolders are not looked into)" if any(file.is_dir() for file in folder.iterdir()) else ""
        raise BadInput(f"{folder} holds no images{inside}: {EXPECTED}")
    return images


def read(file: Path) -> Tensor:
    """A file's pixels, uint8 (3, h, w).

    Raises BadInput where it is unreadable, cut short, of another format, of more than 8 bits, or somewhere transparent.
    """
    try:
        with opened(file) as picture:
            fault = _fault(picture)
            pixels = np.array(picture.convert("RGB"))
    except Exception as error:  # decoders of damaged files raise anything
        raise BadInput(f"cannot read {file} ({type(error).__name__}: {error}): {EXPECTED}") from error
    if fault:
        raise BadInput(f"{file} {fault}: {EXPECTED}")
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _fault(picture: ImageFile.ImageFile) -> str:
    """What speaks against a picture that can be read."""
    if picture.mode.startswith(("I", "F")) or any("16" in str(tile[3]) for tile in picture.tile):
        return "has more than 8 bits a channel"
    if getattr(picture, "is_animated", False) and picture.format != "MPO":  # a camera's, whose first picture it is
        return "is animated"
    if picture.has_transparency_data:
        lowest, _ = picture.convert("RGBA").getchannel("A").getextrema()
        return "is transparent somewhere" if int(lowest) < 255 else ""  # type: ignore[arg-type]
    return ""


def ahead(
    items: Sequence[Item], work: Callable[[Item], Done], *, readers: int = READERS, depth: int = 64
) -> Iterator[Done]:
    """``work`` of each item, in order, done by threads up to ``depth`` items ahead. Errors are raised in order too."""
    rest = iter(items)
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[Future[Done]] = deque(pool.submit(work, item) for item in islice(rest, depth))
        try:
            while waiting:
                done = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(rest, 1))
                yield done
        finally:
            for future in waiting:
                future.cancel()
