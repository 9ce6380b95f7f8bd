"""Files that are there whole or not at all, and room for them looked for beforehand."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from mdrepro.core.errors import BadInput
from mdrepro.core.files import unfinished

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def room(folder: Path, needed: int) -> None:
    """Make a folder. Raises BadInput if it cannot be made or has no room for so many bytes."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise BadInput(f"{folder} cannot be written ({error.strerror}): choose another folder") from error
    if free < needed:
        raise BadInput(
            f"{folder} has {free / 1e9:.2f} GB free, and {needed / 1e9:.2f} GB are needed meanwhile: free some, or "
            "choose another folder"
        )


@contextlib.contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A hidden folder inside ``folder`` for unfinished files, gone afterwards.

    Raises:
        BadInput: the disk filled up inside.
    """
    try:
        with unfinished(folder / "export") as place:
            place.mkdir()
            yield place
    except OSError as error:
        if error.errno in FULL:
            raise BadInput(f"{folder}: no space left; nothing was written") from error
        raise
