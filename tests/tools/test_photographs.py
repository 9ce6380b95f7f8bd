"""``make photos``: listed files out of a package, another distribution's left out, and nothing installed."""

import csv
import shutil
import subprocess

import pytest

from mdrepro.core.files import sha256
from tools import photographs

ROWS = [
    {"name": name, "package": "pictures", "licence": "CC0-1.0", "file": f"usr/share/{name}.jpg", "sha256": ""}
    for name in ("one", "two")
]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A real Debian package, which apt-get would have downloaded; the rows with the hashes of its files."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: pictures\nVersion: 1\nArchitecture: all\nMaintainer: t\nDescription: t\n"
    )
    (tree / "DEBIAN/postinst").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tree / "DEBIAN/postinst").chmod(0o755)
    (tree / "usr/share").mkdir(parents=True)
    rows = []
    for row in ROWS:
        (tree / row["file"]).write_bytes(row["name"].encode() * 99)
        rows.append({**row, "sha256": sha256(tree / row["file"])})
    run = subprocess.run
    built = tmp_path / "pictures_1_all.deb"
    run(["dpkg-deb", "-b", str(tree), str(built)], check=True, capture_output=True)

    def without_network(command, **options):
        if command[0] != "apt-get":
            return run(command, **options)
        assert command[1] == "download"
        return shutil.copy(built, options["cwd"])

    monkeypatch.setattr(subprocess, "run", without_network)
    return rows


def test_listed_files_and_a_manifest_come_out(package, tmp_path, monkeypatch):
    target = tmp_path / "photographs"
    assert photographs.collect(package, target) == []
    assert sorted(path.name for path in target.iterdir()) == ["manifest.csv", "one.jpg", "two.jpg"]
    assert sha256(target / "two.jpg") == package[1]["sha256"]
    assert list(csv.DictReader((target / "manifest.csv").open(newline=""))) == package
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(photographs, "extract", lambda *_: pytest.fail("nothing is missing"))
    assert photographs.collect(package, target) == []


def test_another_version_s_file_is_left_out_and_named(package, tmp_path):
    other = [{**package[0], "sha256": "0" * 64}, package[1]]
    assert photographs.collect(other, tmp_path / "out") == [
        "pictures of this distribution has another usr/share/one.jpg"
    ]
    assert [row["name"] for row in csv.DictReader((tmp_path / "out/manifest.csv").open(newline=""))] == ["two"]


def test_without_apt_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (failed,) = photographs.collect(ROWS, tmp_path / "out")
    assert failed.startswith("pictures: ")
    assert "apt-get" in failed
