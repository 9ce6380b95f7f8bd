"""Calls Sphinx on texts, for the report and for the API reference in it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SITE = Path(__file__).parent / "site"


def sphinx(texts: Mapping[str, str], out: Path, *, strict: bool = False, tags: Sequence[str] = ()) -> None:
    """Render texts, by their files' names, into the existing folder ``out``; what is in it stays.

    With ``strict`` a warning ends the build; ``tags`` are for ``conf.py``. Raises RuntimeError with Sphinx's output.
    """
    with tempfile.TemporaryDirectory(prefix="mdrepro-report-") as scratch:
        source, built = Path(scratch) / "source", Path(scratch) / "html"  # myst-nb writes a folder beside its output
        for name, text in texts.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text, encoding="utf-8")
        command = [
            *(sys.executable, "-m", "sphinx", "-b", "html", "-q", "-E", "-j", "auto", "-c", str(SITE)),
            *("-d", f"{scratch}/trees", *(["-W", "--keep-going"] if strict else []), *(f"-t{tag}" for tag in tags)),
            *(str(source), str(built)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=source)
        output = (done.stdout + done.stderr).replace(f"{source}/", "").strip()
        if done.returncode:
            raise RuntimeError(f"the report could not be built:\n{output}")
        if output:
            print(output, file=sys.stderr)
        shutil.copytree(built, out, dirs_exist_ok=True)
    for name in (".buildinfo", "objects.inv"):
        (out / name).unlink(missing_ok=True)
