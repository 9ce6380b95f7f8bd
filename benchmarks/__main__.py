"""Timed comparisons with other packages, as one table of ratios.

    python -m benchmarks [NAME ...]      # or: make bench ARGS="startup fid"

Each runs in a process of its own. The table is printed and kept in ``papermill_runs/benchmarks/``, with the machine.
Meant for an otherwise idle machine, though most lines count CPU time; nothing fails where a bar is not kept.
"""

import json
import subprocess
import sys
from dataclasses import asdict

from benchmarks.table import Ratio, markdown
from mdrepro.core.files import write_json, write_text
from mdrepro.core.machine import hardware
from mdrepro.core.paths import runs

NAMES = ("startup", "drawing", "frechet", "throughput", "forward_time", "fid")
ONE = "import sys, json, dataclasses, importlib; rows = importlib.import_module('benchmarks.' + sys.argv[1]).run(); "
ONE += "print(json.dumps([dataclasses.asdict(row) for row in rows]))"


def measure(name: str) -> list[Ratio]:
    """The rows of one benchmark, measured by a fresh Python."""
    done = subprocess.run([sys.executable, "-c", ONE, name], check=True, stdout=subprocess.PIPE, text=True)
    return [Ratio(**row) for row in json.loads(done.stdout.splitlines()[-1])]


def main(names: list[str]) -> int:
    """The exit code: 2 for a name that there is not."""
    if wrong := [name for name in names if name not in NAMES]:
        print(f"error: {', '.join(wrong)}: expected some of {', '.join(NAMES)}", file=sys.stderr)
        return 2
    rows: list[Ratio] = []
    for name in names or NAMES:
        print(f"{name} ...", file=sys.stderr, flush=True)
        rows += measure(name)
    folder = runs() / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    table = markdown(rows)
    print(table)
    write_text(folder / "results.md", table)
    write_json(
        folder / "results.json", {"machine": hardware(), "rows": [asdict(row) | {"ratio": row.ratio} for row in rows]}
    )
    print(f"kept in {folder}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
