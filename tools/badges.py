"""Badges that open the playground on Binder and Colab, for a public copy of this repository.

``python -m tools.badges https://github.com/OWNER/NAME`` writes the address into CITATION.cff and
``binder/colab.ipynb``, and the badges under the README's title; another address replaces it.
"""

import re
import sys
from pathlib import Path

from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_text
from mdrepro.core.paths import root

ADDRESS = re.compile(r"https://github\.com/([\w.-]+/[\w.-]+?)(?:\.git)?/?")
NOTEBOOKS = ("notebooks/playground.ipynb", "binder/colab.ipynb")
BADGE = re.compile(r"^\[!\[(?:Binder|Colab)\].*\n+", re.MULTILINE)


def badges(name: str) -> str:
    """Markdown of both badges for a repository OWNER/NAME."""
    binder, colab = NOTEBOOKS
    return (
        f"[![Binder](https://mybinder.org/badge_logo.svg)](https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{binder})\n"
        "[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github/{name}/blob/main/{colab})\n"
    )


def write(address: str, folder: Path) -> None:
    """Put the address into the files of a checkout. Raises BadInput for one that is no repository's on GitHub."""
    if not (found := ADDRESS.fullmatch(address)):
        raise BadInput(f"{address!r}: expected https://github.com/OWNER/NAME, which Binder and Colab read from")
    url = f"https://github.com/{found[1]}"
    citation, colab, readme = (folder / name for name in ("CITATION.cff", NOTEBOOKS[1], "README.md"))
    text = re.sub(r"^repository-code:.*\n", "", citation.read_text(encoding="utf-8"), flags=re.MULTILINE)
    write_text(citation, text.replace("\nlicense:", f'\nrepository-code: "{url}"\nlicense:', 1))
    write_text(colab, re.sub(r"git\+[^\"\s]+", f"git+{url}", colab.read_text(encoding="utf-8")))
    title, _, rest = BADGE.sub("", readme.read_text(encoding="utf-8")).partition("\n\n")
    write_text(readme, f"{title}\n\n{badges(found[1])}\n{rest}")


if __name__ == "__main__":
    try:
        write(" ".join(sys.argv[1:]), root())
    except BadInput as error:
        sys.exit(f"error: {error}")
