"""Only core replaces, locks and flushes files, asks for the processor, and shows progress."""

import ast
from collections.abc import Iterator
from pathlib import Path

import mdrepro

PACKAGE = Path(mdrepro.__file__).parent
MODULES = {"fcntl", "filelock", "portalocker", "rich", "tqdm"}
CALLS = {
    "os": {"replace", "rename", "renames", "link", "fsync", "fdatasync", "sched_getaffinity", "cpu_count"},
    "tempfile": {"mkstemp", "mkdtemp", "NamedTemporaryFile"},
    "shutil": {"move"},
    "psutil": {"cpu_count"},
}
METHODS = {"rename", "flock", "lockf"}
TEXTS = ("/proc/cpuinfo",)


def primitives(source: str) -> Iterator[str]:
    """Uses of what only core may use, as ``line: name``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if found := MODULES & {name.name.split(".")[0] for name in names}:
                yield f"{node.lineno}: import {', '.join(found)}"
            case ast.ImportFrom(module=str(module), names=names):
                inside = CALLS.get(module, set()) & {name.name for name in names}
                if module.split(".")[0] in MODULES or inside:
                    yield f"{node.lineno}: from {module} import {', '.join(sorted(inside))}"
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if name in CALLS.get(owner, ()):
                yield f"{node.lineno}: {owner}.{name}"
            case ast.Call(func=ast.Attribute(attr=name)) if name in METHODS:
                yield f"{node.lineno}: .{name}()"
            case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):
                yield f"{node.lineno}: .replace(target)"  # of a path; of a text it has two arguments
            case ast.Constant(value=str(text)) if any(one in text for one in TEXTS):
                yield f"{node.lineno}: {text}"


def test_no_module_but_core_replaces_locks_or_flushes_files() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{use}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).parts[0] != "core"
        for use in primitives(file.read_text())
    ]
    assert not found


def test_the_check_sees_each_primitive() -> None:
    seen = [
        "import fcntl",
        "from filelock import FileLock",
        "from tqdm.auto import tqdm",
        "import os\nos.replace(a, b)",
        "from os import fsync",
        "import tempfile\ntempfile.mkdtemp()",
        "path.rename(other)",
        "path.replace(other)",
        "open('/proc/cpuinfo')",
        "import os\nlen(os.sched_getaffinity(0))",
    ]
    assert all(list(primitives(source)) for source in seen)
    assert not list(primitives("text.replace('a', 'b')\ndataclasses.replace(row, version=2)\nimport os\nos.getpid()"))
