"""``make photos``: the listed photographs of Debian packages into ``data/photographs/``, extracted and not installed.

Needs apt-get and dpkg-deb, and the package lists of Debian or of a distribution that has these packages. Nothing is run
and nothing is installed. Beside the photographs lies ``manifest.csv``: name, package, licence, file, SHA-256.
"""

import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mdrepro.core.files import replacing, sha256
from mdrepro.data import photos


def extract(package: str, folder: Path) -> Path:
    """The content of a Debian package below ``folder``. Raises CalledProcessError or OSError where it cannot be had."""
    subprocess.run(["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package], cwd=folder, check=True)
    (archive,) = folder.glob(f"{package}_*.deb")
    subprocess.run(["dpkg-deb", "-x", str(archive), str(folder / package)], check=True)
    return folder / package


def collect(rows: Sequence[dict[str, str]], target: Path) -> list[str]:
    """Copy what is missing into ``target`` and write the manifest; returns what could not be had, for people."""
    target.mkdir(parents=True, exist_ok=True)
    here = [row for row in rows if _is_here(row, target)]
    failed = []
    with tempfile.TemporaryDirectory() as place:
        for package in dict.fromkeys(row["package"] for row in rows if row not in here):
            try:
                content = extract(package, Path(place))
            except (OSError, subprocess.CalledProcessError, ValueError) as error:
                failed.append(f"{package}: {error}")
                continue
            for row in rows:
                if row["package"] == package and row not in here:
                    source = content / row["file"]
                    if source.is_file() and sha256(source) == row["sha256"]:
                        with replacing(target / f"{row['name']}.jpg") as file:
                            shutil.copyfile(source, file)
                        here.append(row)
                    else:
                        failed.append(f"{package} of this distribution has another {row['file']}")
    with replacing(target / "manifest.csv") as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row for row in rows if row in here)
    return failed


def main() -> int:
    rows, target = list(photos.listed()), photos.folder()
    failed = collect(rows, target)
    for licence in sorted({row["licence"] for row in rows}):
        print(f"{licence}: " + ", ".join(row["name"] for row in rows if row["licence"] == licence))
    for line in failed:
        print(f"error: {line}", file=sys.stderr)
    print(f"{len(list(target.glob('*.jpg')))} of {len(rows)} photographs in {target}")
    return int(bool(failed))


def _is_here(row: dict[str, str], target: Path) -> bool:
    path = target / f"{row['name']}.jpg"
    return path.is_file() and sha256(path) == row["sha256"]


if __name__ == "__main__":
    sys.exit(main())
