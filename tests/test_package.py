"""What is installed: every imported package is declared, and a wheel works in an empty folder."""

import ast
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mdrepro.core import paths
from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow import fingerprint, parameters
from tests.support.checkout import REPOSITORY, TABLE
from tools.environment import canonical

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OPTIONAL = {
    "export": {"mdrepro.export", "mdrepro.latency"},
    "report": {"mdrepro.reproduce.report"},
}
"""Extras, and what of the package may import their packages."""
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cleanfid": "clean-fid",
    "markdown_it": "markdown-it-py",
    "skimage": "scikit-image",
    "yaml": "pyyaml",
}
"""Of packages that are imported by another name."""
Run = Callable[..., subprocess.CompletedProcess[str]]


def declared(requirements: list[str]) -> set[str]:
    return {canonical(re.split(r"[<>=!~\[; ]", item)[0]) for item in requirements}


def imported(file: Path) -> set[str]:
    """Top-level names of other packages that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"mdrepro"}


def test_every_imported_package_is_declared() -> None:
    always = declared(PROJECT["dependencies"])
    undeclared = []
    for file in REPOSITORY.glob("mdrepro/**/*.py"):
        module = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
        allowed = set(always)
        for extra, places in OPTIONAL.items():
            if module.startswith(tuple(places)):
                allowed |= declared(PROJECT["optional-dependencies"][extra])
        for name in imported(file):
            if DISTRIBUTIONS.get(name, canonical(name)) not in allowed:
                undeclared.append(f"{module}: {name}")
    assert undeclared == []


def test_the_versions_of_python_are_the_same_everywhere() -> None:
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    assert [each for each in PROJECT["classifiers"] if "Python :: 3." in each] == [
        f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)
    ]
    for name in ("README.md", "CONTRIBUTING.md", "Makefile"):
        text = (REPOSITORY / name).read_text()
        assert "Python 3.11 to 3.13" in text
        assert "or newer" not in text
    assert '"python>=3.11,<3.14"' in (REPOSITORY / "environment.yml").read_text()
    assert "(3, 11) <= sys.version_info < (3, 14)" in (REPOSITORY / "Makefile").read_text()


@pytest.fixture
def wheel_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package's folder as from a wheel, and an empty current folder; returns the folder of both."""
    package = tmp_path / "site" / "mdrepro"
    for name in ("notebooks/a.ipynb", "results/quick/x.json", "papermill_runs/README.md", "environment.yml"):
        file = package / "checkout" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(paths, "PACKAGE", package)
    monkeypatch.setattr(paths, "SHIPPED", package / "checkout")
    monkeypatch.delenv("MDREPRO_ROOT", raising=False)
    monkeypatch.chdir(tmp_path / "empty")
    paths.root.cache_clear()
    return tmp_path


def test_where_things_are_without_a_checkout(wheel_paths: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = wheel_paths / "site" / "mdrepro" / "checkout"
    assert paths.root() == shipped
    assert paths.shipped("environment.yml") == shipped / "environment.yml"
    monkeypatch.setenv("XDG_CACHE_HOME", str(wheel_paths / "cache"))
    assert paths.data() == wheel_paths / "cache" / "mdrepro" / "data"
    with pytest.raises(BadInput, match="mdrepro init FOLDER"):
        paths.check_working_copy()
    paths.lay_out(Path("work"))
    made = wheel_paths / "empty" / "work"
    assert {file.name for file in made.rglob("*") if file.is_file()} == {
        "a.ipynb",
        "x.json",
        "README.md",
        "environment.yml",
    }
    with pytest.raises(BadInput, match="is not empty"):
        paths.lay_out(Path("work"))
    for place in (made, made / "notebooks"):
        monkeypatch.chdir(place)
        paths.root.cache_clear()
        assert paths.root() == made
        assert paths.data() == made / "data"
        paths.check_working_copy()
    monkeypatch.setenv("MDREPRO_ROOT", str(wheel_paths))
    paths.root.cache_clear()
    with pytest.raises(BadInput, match="holds no notebooks folder"):
        paths.root()
    paths.root.cache_clear()


def test_code_is_hashed_from_the_package_where_a_working_copy_holds_none(workspace: Path, tmp_path: Path) -> None:
    table = ledger.find(TABLE)
    before = fingerprint.fingerprint(table, parameters.resolve(table, "quick", []))["code"]
    (workspace / "mdrepro").unlink()
    after = fingerprint.fingerprint(table, parameters.resolve(table, "quick", []))["code"]
    assert after == before
    assert len(after) > 10


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the files that git knows."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPOSITORY / name, folder / "source" / name)
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run([sys.executable, "-m", *command], cwd=folder / "source", check=True, capture_output=True)
    shutil.rmtree(folder / "source")
    [file] = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """Python of an environment with the wheel and this environment's other packages."""
    folder = wheel.parent / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    install = ["pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True, capture_output=True)
    site = next((folder / "lib").glob("python*")) / "site-packages"
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    return python


@pytest.fixture
def run(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``mdrepro`` of the wheel, in ``tmp_path / "empty"`` or another folder."""
    monkeypatch.delenv("MDREPRO_ROOT", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()

    def command(*arguments: str, cwd: Path = tmp_path / "empty") -> subprocess.CompletedProcess[str]:
        program = [str(python.with_name("mdrepro")), *arguments]
        return subprocess.run(program, cwd=cwd, capture_output=True, text=True, check=False)

    return command


@pytest.mark.slow
def test_a_wheel_holds_what_commands_read(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"mdrepro/py.typed", "mdrepro/papers/mobilediffusion.yaml", "mdrepro/data/photographs.csv"} <= names
    tracked = {str(file.relative_to(REPOSITORY)) for file in REPOSITORY.glob("results/quick/**/*") if file.is_file()}
    tracked |= {table.notebook for table in ledger.tables().values() if table.notebook}
    tracked |= {"docs/underspecified.yaml", "workflow/Snakefile", "papermill_runs/README.md", "environment.yml"}
    assert {f"mdrepro/checkout/{name}" for name in tracked} <= names
    assert not [name for name in names if name.startswith(("tests/", "tools/")) or "/." in name]
    assert wheel.stat().st_size < 95e6


@pytest.mark.slow
def test_commands_work_in_an_empty_folder(run: Run, tmp_path: Path) -> None:
    for command, says in (
        ("list", TABLE),
        (f"show {TABLE}", "published; no run here"),
        ("doctor", "quick: ready"),
        ("train --list", "shapes-reader"),
        ("verify --tier quick", "all verified"),
        ("evaluate encoders", "clean-fid"),
        ("cost sd15", "859.5"),
    ):
        done = run("--quiet", *command.split())
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert says in done.stdout
    assert list((tmp_path / "empty").iterdir()) == []
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (64, 64), (40 * number, 90, len(name) * 20)).save(tmp_path / name / f"{number}.png")
    options = ("--encoder", "shapes", "--few", "--metrics", "fid")
    done = run("evaluate", "images", str(tmp_path / "real"), str(tmp_path / "made"), *options)
    assert (done.returncode, "FID[shapes]" in done.stdout) == (0, True), done.stderr
    done = run("export", "shapes-1-gan", "--component", "decoder", "--out", "files")
    assert (done.returncode, "decoder-fp32.tflite" in done.stdout) == (0, True), done.stderr
    for command in (f"reproduce {TABLE}", "report", "train shapes-reader", f"publish {TABLE}"):
        done = run(*command.split())
        assert (done.returncode, "mdrepro init FOLDER" in done.stderr) == (2, True), done.stderr
    assert [file.name for file in (tmp_path / "empty").iterdir()] == ["files"]


@pytest.mark.slow
def test_a_working_copy_of_a_wheel_runs_a_table(run: Run, tmp_path: Path) -> None:
    assert run("init", "work").returncode == 0
    work = tmp_path / "empty" / "work"
    done = run("reproduce", "snapfusion-unet-table3", "--no-report", cwd=work)
    assert done.returncode == 0, done.stderr
    assert len(list(work.glob("papermill_runs/quick/snapfusion-unet-table3/*/result.json"))) >= 1
    again = run("reproduce", "snapfusion-unet-table3", "--no-report", "--dry-run", cwd=work)
    assert "skipped: up to date" in again.stdout


@pytest.mark.slow
def test_mypy_finds_the_types_of_a_wheel(python: Path, tmp_path: Path) -> None:
    program = "from mdrepro.core.errors import nearest\nreveal_type(nearest('a', ['b']))\nnearest(1, ['b'])\n"
    (tmp_path / "program.py").write_text(program)
    options = ["--python-executable", str(python), "--cache-dir", str(tmp_path / "cache"), "program.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'Revealed type is "list[' in done.stdout or 'Revealed type is "builtins.list[' in done.stdout, done.stdout
    assert 'incompatible type "int"; expected "str"' in done.stdout
