"""Calls Sphinx on a folder of sources, for the report and for the API reference in it."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SITE = Path(__file__).parent / "site"


def sphinx(source: Path | Mapping[str, str], out: Path, *, strict: bool = False, tags: Sequence[str] = ()) -> None:
    """Render a folder of sources, or texts by file name, into the folder ``out``.

    Args:
        source: what is rendered.
        out: an existing folder; what is in it stays.
        strict: a warning ends the build.
        tags: for ``conf.py``.

    Raises:
        RuntimeError: Sphinx failed; the message is its output.
    """
    with tempfile.TemporaryDirectory(prefix="mdrepro-report-") as scratch:
        home = Path(scratch)
        if not isinstance(source, Path):
            (home / "source").mkdir()
            for name, text in source.items():
                (home / "source" / name).write_text(text, encoding="utf-8")
            source = home / "source"
        built = home / "html"  # myst-nb writes a folder of its own beside its output
        command = [
            sys.executable,
            "-m",
            "sphinx",
            "-b",
            "html",
            "-q",
            "-E",
            "-j",
            "auto",
            "-c",
            str(SITE),
            "-d",
            str(home / "trees"),
        ]
        command += [*(["-W", "--keep-going"] if strict else []), *(f"-t{tag}" for tag in tags), str(source), str(built)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=source)
        output = (done.stdout + done.stderr).replace(f"{source}/", "").strip()
        if done.returncode:
            raise RuntimeError(f"the report could not be built:\n{output}")
        if output:
            print(output, file=sys.stderr)
        shutil.copytree(built, out, dirs_exist_ok=True)
    for name in (".buildinfo", "objects.inv"):
        (out / name).unlink(missing_ok=True)
