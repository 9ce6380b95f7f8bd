"""Errors of the system and of damaged files, as one line for the user: where, what, and what to do."""

import errno
import re
import traceback
from pathlib import Path

from mdrepro.core.files import ASIDE

REMEDIES = {
    errno.ENOSPC: "no space left on this disk; free some, then run the same command again",
    errno.EDQUOT: "your disk quota is used up; free some, then run the same command again",
    errno.EFBIG: "larger than files may be here; write to another folder",
    errno.EROFS: "this file system is read-only; write to another folder",
    errno.EACCES: "permission denied; change its permissions, or take another folder",
    errno.EPERM: "permission denied; change its permissions, or take another folder",
    errno.ENOENT: "no such file or folder; check the path, or make its folder first",
    errno.ENOTDIR: "a file is where a folder is expected; check the path",
    errno.EISDIR: "a folder is where a file is expected; check the path",
    errno.EEXIST: "something of this name is there already; remove or rename it",
    errno.ENOTEMPTY: "a folder that is not empty is there already; remove or rename it",
    errno.ELOOP: "its links go round in a circle; check the path",
    errno.ENAMETOOLONG: "the name is too long; take a shorter one",
    errno.EMFILE: "too many files are open; raise the limit with `ulimit -n`",
    errno.ENFILE: "too many files are open on this machine; close some programs",
    errno.ENOMEM: "out of memory; close other programs, or take smaller batches",
    errno.EIO: "the disk failed to read or write; check the disk",
    errno.ESTALE: "the network folder is gone; mount it again",
}
TEXTS = (
    (re.compile(r"no space left on device|os error 28\b|disk is full|errno 28\b", re.IGNORECASE), errno.ENOSPC),
    (re.compile(r"quota exceeded|os error 122\b|errno 122\b", re.IGNORECASE), errno.EDQUOT),
    (re.compile(r"read-only file system|os error 30\b|errno 30\b", re.IGNORECASE), errno.EROFS),
)
"""What other libraries, notebooks and Snakemake make of an error of the system."""
QUOTED = re.compile(r"^(?:\w+)?Error: \[Errno (\d+)\] [^\n]*?: '([^'\n]+)'", re.MULTILINE)
"""The last line of a traceback that such a program prints, about a path: its number and the path."""
DAMAGED = (
    "SafetensorError",
    "JSONDecodeError",
    "UnicodeDecodeError",
    "YAMLError",
    "BadZipFile",
    "UnidentifiedImageError",
)
"""Names of errors, or of their bases, that only damaged files cause."""


def explain(error: BaseException) -> str | None:
    """The line for an error that files, disks or memory cause; None for any other, which is a fault of the program."""
    if (found := in_text(str(error))) is not None and not isinstance(error, OSError):
        return _joined(_path(error), found)
    if isinstance(error, OSError) and error.errno is not None:
        reason = REMEDIES.get(error.errno, error.strerror or str(error))
        return _joined(error.filename2 or error.filename or _path(error), str(reason))
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "out of memory" in str(error):
        return REMEDIES[errno.ENOMEM]
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, OSError) or names.intersection(DAMAGED):
        reason = " ".join(str(error).split())[:300]
        return _joined(_path(error), f"cannot be read or written ({reason}); restore it, or write it again")
    return None


def in_text(text: str) -> str | None:
    """What to do about a disk or a path, where a text of another program reports an error of it; None elsewhere."""
    if quoted := QUOTED.search(text):
        return _joined(quoted[2], REMEDIES[int(quoted[1])]) if int(quoted[1]) in REMEDIES else None
    return next((REMEDIES[code] for pattern, code in TEXTS if pattern.search(text)), None)


def _joined(where: object, reason: str) -> str:
    name = where.decode(errors="replace") if isinstance(where, bytes) else where
    return f"{name}: {reason}" if isinstance(name, (str, Path)) and str(name) else reason


def _path(error: BaseException) -> Path | None:
    """The path that the innermost function of this package worked on: writing to an open file names none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        if frame.f_globals.get("__name__", "").startswith("mdrepro."):
            paths = [value for value in frame.f_locals.values() if isinstance(value, Path)]
            if paths:
                aside = ASIDE.fullmatch(paths[0].name)
                return paths[0].with_name(aside["name"]) if aside else paths[0]
    return None
