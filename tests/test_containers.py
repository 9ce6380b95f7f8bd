"""Dockerfile and Binder: they name what is there, and install by the Makefile's own commands."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from mdrepro.core.errors import BadInput
from tests.support.checkout import REPOSITORY
from tools import badges

INSTRUCTIONS = {"FROM", "RUN", "USER", "WORKDIR", "COPY", "ENV", "EXPOSE", "CMD"}


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and what follows them, comments left out and continued lines joined."""
    text = re.sub(r"^#.*\n", "", (REPOSITORY / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def installs(text: str) -> list[list[str]]:
    """Arguments of each call of uv in a script that has to succeed, in order."""
    calls = re.findall(r"uv pip install (.*)$", text.replace("\\\n", " "), re.MULTILINE)
    return [shlex.split(each) for each in calls if "||" not in each]


def makefile(target: str) -> str:
    rule = re.search(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert rule, target
    return rule[1]


def test_the_image_is_set_up_by_make_and_starts_what_is_installed() -> None:
    steps = dockerfile()
    assert {instruction for instruction, _ in steps} <= INSTRUCTIONS
    (base,) = (value for instruction, value in steps if instruction == "FROM")
    assert "python-3.11" in (REPOSITORY / "binder/runtime.txt").read_text()
    assert base.startswith("python:3.11-")
    runs = [value for instruction, value in steps if instruction == "RUN"]
    assert runs[-1] == "make setup"
    assert "setup: $(STAMP)" in (REPOSITORY / "Makefile").read_text()
    for command in runs:
        subprocess.run(["sh", "-n", "-c", command], check=True)
    order = [instruction for instruction, _ in steps]
    assert order.index("USER") < order.index("COPY")
    place = dict(steps)["WORKDIR"]
    assert dict(steps)["ENV"] == f'PATH="{place}/.venv/bin:$PATH"'
    program, *options = json.loads(dict(steps)["CMD"])
    assert (REPOSITORY / options[-1] / "playground.ipynb").is_file()
    assert program == "jupyter"
    assert dict(steps)["EXPOSE"] == next(each for each in options if each.startswith("--port")).partition("=")[2]


def test_the_image_is_built_from_what_git_has(tmp_path: Path) -> None:
    left_out = (REPOSITORY / ".dockerignore").read_text().split()
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(tracked) > 100
    for name in left_out:
        assert not name.startswith("!") or name[1:] in tracked
        plain = name.removeprefix("**/").removesuffix("/*")
        assert name == "papermill_runs/*" or not any(
            Path(file).match(plain) or file.startswith(f"{plain}/") for file in tracked
        )
    assert ".git" not in left_out  # runs name the commit


def test_binder_installs_as_make_setup_does() -> None:
    file = REPOSITORY / "binder/postBuild"
    assert os.access(file, os.X_OK)
    assert file.read_text().startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n", str(file)], check=True)
    wanted = installs(makefile("$(STAMP)"))
    assert len(wanted) == 2
    assert installs(file.read_text()) == wanted
    for call in wanted:
        assert all((REPOSITORY / name).exists() for name in call if name.endswith(".lock"))
    known = {"runtime.txt", "postBuild", "colab.ipynb"}
    assert {path.name for path in (REPOSITORY / "binder").iterdir()} == known


def test_badges_lead_to_notebooks_that_are_there(tmp_path: Path) -> None:
    for name in ("README.md", "CITATION.cff", *badges.NOTEBOOKS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((REPOSITORY / name).read_text())
    before = (tmp_path / "README.md").read_text()
    for address in ("https://github.com/one/first", "https://github.com/me/copy.git"):
        badges.write(address, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert yaml.safe_load((tmp_path / "CITATION.cff").read_text())["repository-code"] == "https://github.com/me/copy"
    links = re.findall(r"\]\((https://[^\s)]+me/copy[^\s)]*)\)", text)
    assert [each.partition("me/copy")[0] for each in links] == [
        "https://mybinder.org/v2/gh/",
        "https://colab.research.google.com/github/",
    ]
    for link, notebook in zip(links, badges.NOTEBOOKS, strict=True):
        assert link.endswith(notebook)
        assert (REPOSITORY / notebook).is_file()
    assert text.count("[![") == 2
    assert before.partition("\n\n")[2] in text
    cells = json.loads((tmp_path / "binder/colab.ipynb").read_text())["cells"]
    assert "".join(cells[1]["source"]) == "%pip install --quiet git+https://github.com/me/copy"
    with pytest.raises(BadInput, match=r"expected https://github\.com"):
        badges.write("https://example.org/x", tmp_path)


def test_colab_shows_the_playgrounds_networks() -> None:
    playground = json.loads((REPOSITORY / "notebooks/playground.ipynb").read_text())["cells"]
    colab = json.loads((REPOSITORY / "binder/colab.ipynb").read_text())["cells"]
    (recipes,) = re.findall(
        r"recipes: list\[str\] = (\[.*?\])", "".join("".join(cell["source"]) for cell in playground)
    )
    assert f"Playground({recipes})" in "".join(colab[-1]["source"])
