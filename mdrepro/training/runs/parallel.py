"""All missing runs, each in a process of its own, some side by side, none before its parents."""

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from mdrepro.core.errors import BadInput
from mdrepro.core.paths import root
from mdrepro.core.watchdog import follow, lead
from mdrepro.training.runs.scratch import ignore_published

COMMAND = (sys.executable, "-m", "mdrepro")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def missing(names: Sequence[str]) -> list[str]:
    """What has to be trained so that these recipes can be used: each after its parents.

    Raises:
        BadInput: an unknown name.
        NotAttempted: the data of one of them is not here.
    """
    from mdrepro.training.recipes import registry
    from mdrepro.training.runs import store

    found: dict[str, None] = {}

    def visit(name: str) -> None:
        row = registry.get(name)
        there = store.find(row) is not None
        for role, parent in row.parents.items():
            if not there or role in ("vae", "text"):
                visit(parent)
        if not there:
            found[name] = None

    for name in names:
        visit(name)
    return list(found)


def train(names: Sequence[str], jobs: int = 2) -> dict[str, str]:
    """Train these recipes, which are missing, by ``mdrepro train``; each line of theirs is passed on with its name.

    The processes end with this one, even if it is killed.

    Args:
        names: each after its parents, as `missing` gives them.
        jobs: how many at once, with one thread each.

    Returns:
        the recipes that failed, or were not begun because a parent failed, and why; nothing if all went well.

    Raises:
        BadInput: jobs below 1.
    """
    if jobs < 1:
        raise BadInput(f"jobs {jobs}: allowed are numbers from 1")
    parents = _parents(names)
    waiting, failed = list(names), dict[str, str]()
    running: dict[str, subprocess.Popen[str]] = {}
    ended: SimpleQueue[str] = SimpleQueue()
    try:
        while waiting or running:
            for name in list(waiting):
                if lost := sorted(parents[name] & failed.keys()):
                    failed[name] = f"not begun: {lost[0]} failed"
                    waiting.remove(name)
                elif len(running) < jobs and not parents[name] & {*waiting, *running}:
                    running[name] = _start(name, ended)
                    waiting.remove(name)
            if running:
                name = ended.get()
                if code := running.pop(name).wait():
                    failed[name] = f"ended with code {code}"
    finally:
        for process in running.values():
            process.terminate()
    return failed


def _parents(names: Sequence[str]) -> dict[str, set[str]]:
    """Of each recipe. One that is trained alone waits for none: its job is spared the seconds that torch takes."""
    if len(names) < 2:
        return {name: set() for name in names}
    from mdrepro.training.recipes import registry

    return {name: set(registry.get(name).parents.values()) for name in names}


def main(arguments: Sequence[str]) -> int:
    """``python -m mdrepro.training.runs.parallel RECIPE [--from-scratch]``: the workflow's job."""
    follow()
    if "--from-scratch" in arguments:
        ignore_published()
    return 1 if train([name for name in arguments if not name.startswith("--")], 1) else 0


def _start(name: str, ended: "SimpleQueue[str]") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*COMMAND, "train", name],
        cwd=root(),
        env=os.environ | lead() | dict.fromkeys(THREADS, "1") | {"PYTHONUNBUFFERED": "1"},
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    threading.Thread(target=_pass_on, args=(name, process, ended), daemon=True).start()
    return process


def _pass_on(name: str, process: subprocess.Popen[str], ended: "SimpleQueue[str]") -> None:
    """Print its lines with its name before each; then say that it has ended."""
    assert process.stdout
    for line in process.stdout:
        if line.strip():
            print(f"[{name}] {line.rstrip()}", flush=True)
    ended.put(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
