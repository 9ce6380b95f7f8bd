"""Texts as HTML and BibTeX, and Sphinx's call on them, for the report and for the API reference in it."""

import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markupsafe import Markup

SITE = Path(__file__).parent / "site"


def prose(text: str) -> "Markup":
    """A text as HTML, what stands in it between backticks as code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("``?([^`]+)``?", r"<code>\1</code>", str(escape(text))))


def plain(value: object) -> str:
    """A parameter's value as text: lists without brackets, "yes" and "no"."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


def bibtex(citation: Mapping[str, Any]) -> str:
    """BibTeX of what a ``CITATION.cff`` holds: the software, and what it refers to."""

    def author(one: Mapping[str, str]) -> str:
        return f"{one['family-names']}, {one['given-names']}" if "family-names" in one else f"{{{one['name']}}}"

    def entry(one: Mapping[str, Any]) -> str:
        name, _, rest = one["title"].partition(": ")
        fields = {"title": f"{{{name}}}: {rest}", "author": " and ".join(map(author, one["authors"]))}
        fields |= {key: str(one[key]) for key in ("year", "version", "url") if key in one}
        kind = "software" if one["type"] == "software" else "misc"
        lines = "".join(f"  {key} = {{{value}}},\n" for key, value in fields.items())
        return f"@{kind}{{{name.lower()},\n{lines}}}"

    return "\n\n".join(map(entry, (citation, *citation.get("references", ()))))


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
            *(sys.executable, "-m", "sphinx", "-b", "html", "-E", "-j", "auto", "-c", str(SITE)),
            *("-d", f"{scratch}/trees", *(["-W", "--keep-going"] if strict else []), *(f"-t{tag}" for tag in tags)),
            *(str(source), str(built)),
        ]
        title = "API reference" if "api" in tags else "report"
        pages = sum(not name.startswith("fragments/") for name in texts)
        print(f"{title}: {pages} pages", file=sys.stderr, flush=True)
        code, warned = _run(command, source, Path(scratch) / "warnings", title)
        warned = warned.replace(f"{source}/", "").strip()
        if code:
            raise RuntimeError(f"the report could not be built:\n{warned}")
        if warned:
            print(warned, file=sys.stderr)
        shutil.copytree(built, out, dirs_exist_ok=True)
    for name in (".buildinfo", "objects.inv"):
        (out / name).unlink(missing_ok=True)


def _run(command: Sequence[str], folder: Path, warnings: Path, title: str) -> tuple[int, str]:
    """Sphinx's exit status and what it warned of; meanwhile, how far it is."""
    from mdrepro.core.console import Progress

    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with warnings.open("w") as file, Progress(title, 100, "%") as progress:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, cwd=folder, env=environment)
        assert process.stdout is not None
        with process.stdout as output:
            while True:
                if select.select([output], [], [], 1)[0]:
                    if not (text := os.read(output.fileno(), 1 << 16).decode(errors="replace")):
                        break
                    for stage, share in re.findall(r"(reading sources|writing output)\.\.\. *\[ *(\d+)%\]", text):
                        progress.done = int(share) // 2 + 50 * (stage == "writing output")
                progress.advance(0)
        return process.wait(), warnings.read_text(encoding="utf-8", errors="replace")
