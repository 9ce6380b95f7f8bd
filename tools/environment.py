"""environment.yml, written from pyproject.toml and requirements.lock: conda users get the same packages.

``python -m tools.environment`` writes it; a test keeps the three files in agreement.
"""

import re
import tomllib
from pathlib import Path

from mdrepro.core.paths import root

LINE = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^\s\\;]+)(?:\s*;\s*(?P<marker>[^\\]+?))?\s*\\?$")
HEADER = """\
# Written by `make lock` from pyproject.toml and requirements.lock. For conda users:
#   conda env create --file environment.yml && conda activate mdrepro && pip install --no-deps --editable .
"""


def canonical(name: str) -> str:
    """A package's name in the lock's spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: Path) -> dict[str, list[tuple[str, str]]]:
    """For each locked package the (version, marker) pairs; the marker is "" where one version serves everywhere."""
    found: dict[str, list[tuple[str, str]]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if match := LINE.match(line):
            found.setdefault(match["name"], []).append((match["version"], match["marker"] or ""))
    return found


def direct(pyproject: Path) -> list[str]:
    """Names of the packages that the project itself asks for, extras included, in order."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted = sum(project["optional-dependencies"].values(), start=list(project["dependencies"]))
    return list(dict.fromkeys(canonical(re.split(r"[<>=!~\[; ]", item)[0]) for item in wanted))


def environment(folder: Path) -> str:
    """The text of environment.yml. Raises KeyError for a package that the lock does not hold."""
    pins = locked(folder / "requirements.lock")
    requires = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    lines = [HEADER + "name: mdrepro", "channels:", "  - conda-forge", "dependencies:", f'  - "python{requires}"']
    lines += ["  - git", "  - make", "  - pip", "  - pip:"]
    for name in direct(folder / "pyproject.toml"):
        for version, marker in pins[name]:
            pin = f"{name}=={version}" + (f" ; {marker}" if marker else "")
            lines.append(f"      - {pin!r}" if marker else f"      - {pin}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (root() / "environment.yml").write_text(environment(root()), encoding="utf-8")
