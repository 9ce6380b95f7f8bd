"""Files around the package: names that documents mention exist, hooks and workflows call what is there."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mdrepro.models.pipeline import FORMER_MODULES
from tests.support.checkout import REPOSITORY

DOCUMENTS = [
    *REPOSITORY.glob("*.md"),
    *REPOSITORY.glob("docs/**/*.md"),
    *REPOSITORY.glob("docs/*.yaml"),
    *REPOSITORY.glob("notebooks/**/*.ipynb"),
    *REPOSITORY.glob(".github/**/*.yml"),
    *REPOSITORY.glob("mdrepro/**/*.py"),
    *REPOSITORY.glob("mdrepro/**/*.yaml"),
    REPOSITORY / "papermill_runs/README.md",
]
FILES = re.compile(r"(?<![\w/.-])(?:mdrepro|tests|tools|benchmarks|notebooks|docs)/[\w/-]+\.(?:py|ipynb|md|yaml)\b")
SOURCES = [
    f"/{file.relative_to(REPOSITORY)}"
    for part in ("mdrepro", "tests", "tools", "benchmarks")
    for file in (REPOSITORY / part).rglob("*.py")
] + ["/setup.py"]


def exists(name: str) -> bool:
    """Whether a dotted name is a module of ours, or a word in the deepest module of ours that it begins with."""
    parts = name.split(".")
    for depth in range(len(parts), 0, -1):
        stem = REPOSITORY.joinpath(*parts[:depth])
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return depth == len(parts) or bool(re.search(rf"\b{parts[depth]}\b", file.read_text()))
    return False


def missing(text: str) -> Iterator[str]:
    """Modules and files of ours that a text names and that are not there."""
    modules = re.findall(r"(?<![\w./-])mdrepro(?:\.[A-Za-z_]\w*)+", text)
    yield from (name for name in modules if not exists(name) and not name.endswith((".css", ".js")))
    yield from (name for name in FILES.findall(text) if not (REPOSITORY / name).exists())


def prose(file: Path) -> str:
    """A file's text; of CONTRIBUTING.md without its code, which `tests/test_contributing.py` executes."""
    text = file.read_text(encoding="utf-8")
    code = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
    return code.sub("", text) if file.name == "CONTRIBUTING.md" else text


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(REPOSITORY)))
def test_modules_and_files_that_are_named_exist(file: Path) -> None:
    text = prose(file)
    assert [name for name in missing(text) if name not in FORMER_MODULES] == []
    if file.suffix == ".md":
        names = re.findall(r"(?<![\w/.<*-])[\w-]+(?:/[\w-]+)*\.py\b", text)
        assert [name for name in names if not any(source.endswith(f"/{name}") for source in SOURCES)] == []


def test_the_tests_of_faults_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (REPOSITORY / "docs" / "faults.md").read_text())
    assert len(named) > 40
    assert [f"{file}::{name}" for file, name in named if f"def {name}(" not in (REPOSITORY / file).read_text()] == []


def test_missing_names_are_found() -> None:
    text = "`mdrepro.models.gone`, mdrepro.core.paths.root, mdrepro/core/path.py and docs/gone.md"
    assert list(missing(text)) == ["mdrepro.models.gone", "mdrepro/core/path.py", "docs/gone.md"]
    assert list(missing("mdrepro.core.paths.rooot")) == ["mdrepro.core.paths.rooot"]


@pytest.mark.parametrize("file", [file for file in DOCUMENTS if file.suffix == ".md"], ids=lambda file: file.name)
def test_relative_links_lead_somewhere(file: Path) -> None:
    for target, _, anchor in re.findall(r"\]\(((?!https?:)[^)#\s]*)(#?)([^)\s]*)\)", prose(file)):
        page = file.parent / target if target else file
        assert page.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in slugs, f"{target}#{anchor}"


def test_the_marker_of_types_and_the_papers_are_packaged() -> None:
    with open(REPOSITORY / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    package = project["tool"]["setuptools"]["package-data"]["mdrepro"]
    for pattern in package:
        assert list((REPOSITORY / "mdrepro").glob(pattern)), pattern
    assert "py.typed" in package
    assert all(url.startswith("https://arxiv.org/abs/") for url in project["project"]["urls"].values())


def test_the_citation_is_of_this_version() -> None:
    with open(REPOSITORY / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## {project['version']}" in (REPOSITORY / "CHANGELOG.md").read_text()
    assert {each["url"] for each in citation["references"]} == set(project["urls"].values())


def test_continuous_integration_runs_the_commands_of_the_readme() -> None:
    jobs = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert commands == ["make test PYTHON=python", ".ci/run"]
    for form in (REPOSITORY / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        fields = yaml.safe_load(form.read_text())
        assert form.name == "config.yml" or {"name", "description", "body"} <= set(fields), form.name


def test_hooks_run_what_is_installed_here(tmp_path: Path) -> None:
    hooks = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"]
    for hook in hooks[0]["hooks"]:
        program, *options = hook["entry"].split()
        assert hook["language"] == "system"
        assert (Path(sys.executable).parent / Path(program).name).is_file(), hook["id"]
        file = tmp_path / "file.py"
        file.write_text('"""A module."""\n')
        command = [str(Path(sys.executable).parent / Path(program).name), *options, str(file)]
        if hook["id"] != "nbstripout":
            assert subprocess.run(command, capture_output=True, cwd=REPOSITORY).returncode == 0, hook["id"]


def test_make_clean_leaves_the_folder_of_runs(tmp_path: Path) -> None:
    rule = re.search(r"^clean:\n((?:\t.*\n)+)", (REPOSITORY / "Makefile").read_text() + "\n", re.MULTILINE)
    assert rule
    for name in ("papermill_runs/README.md", "papermill_runs/quick/x/result.json", "papermill_runs/.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    subprocess.run(["sh", "-ec", rule[1].replace("\t", "")], cwd=tmp_path, check=True)
    assert [path.name for path in (tmp_path / "papermill_runs").iterdir()] == ["README.md"]
