"""Runs one table's notebook through papermill: the job that the workflow schedules.

``python -m mdrepro.reproduce.workflow.notebook JOB.json`` runs the job described in the file. The run appears whole in
``papermill_runs/<tier>/<table>/`` or not at all; a failed notebook keeps its partial copy, with ``error.json``, in
``papermill_runs/<tier>/<table>.failed/``.
"""

import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from mdrepro.core.errors import BadInput
from mdrepro.core.files import file_hashes, replacing_folder, swap, write_json
from mdrepro.core.paths import root, run_dir
from mdrepro.core.provenance import state
from mdrepro.core.watchdog import follow
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import changes, fingerprint
from mdrepro.reproduce.workflow.record import RUN
from mdrepro.training.runs import scratch

FAILED, BAD_INPUT = 1, 2


def failed_dir(tier: str, table: str) -> Path:
    """Where a failed run keeps its partial notebook."""
    return run_dir(tier, f"{table}.failed")


class _Progress:
    """Passes the notebook's own output through, a table's name before each line."""

    def __init__(self, table: str, stream: TextIO) -> None:
        self.prefix, self.stream, self.rest = f"[{table}] ", stream, ""

    def write(self, text: str) -> None:
        *lines, self.rest = re.split(r"[\r\n]", self.rest + text)
        for line in lines:
            if line.strip():
                self.stream.write(self.prefix + line.rstrip() + "\n")
        self.stream.flush()

    def flush(self) -> None:
        self.stream.flush()


def _engine(progress: _Progress) -> str:
    """Register a papermill engine that says which cell it starts, and return its name."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            start, begun = nb_man.cell_start, time.monotonic()
            total = len(nb_man.nb.cells)

            def cell_start(cell: Any, cell_index: int = 0, **more: Any) -> None:
                if cell.cell_type == "code":
                    progress.write(f"cell {cell_index + 1} of {total}, {time.monotonic() - begun:.0f} s\n")
                start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    papermill_engines.register("mdrepro", Engine)
    return "mdrepro"


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _keep_partial(folder: Path, job: dict[str, Any], error: dict[str, Any]) -> None:
    write_json(folder / "error.json", error)
    for name in ("result.json", "result.csv"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    swap(folder, failed_dir(job["tier"], job["table"]))


def _describe(error: Any) -> dict[str, Any]:
    """A papermill execution error as JSON: kind, message, failing cell and the end of the traceback."""
    traceback = [_plain(line) for line in error.traceback]
    return {
        "bad_input": error.ename == BadInput.__name__,
        "cell": error.exec_count,
        "source": error.source,
        "error": error.ename,
        "message": _plain(error.evalue),
        "traceback": "\n".join(traceback)[-6000:],
    }


def run(job: dict[str, Any]) -> Path:
    """Execute one job and return the folder of the finished run.

    Args:
        job: ``table``, ``tier``, ``notebook`` (relative to the root), ``parameters``, ``fingerprint``, and perhaps
            ``from_scratch``: published checkpoints are ignored.

    Raises:
        papermill.PapermillExecutionError: a cell failed; the partial copy is kept.
        RuntimeError: the notebook ended without recording a result; the partial copy is kept.
    """
    import papermill

    tier, table = job["tier"], job["table"]
    progress = _Progress(table, sys.stderr)
    started = {"bad_input": False, "cell": None, "source": "", "error": "Killed", "traceback": ""}
    started["message"] = "the run ended without a word (killed, or out of memory?); the same command resumes"
    shutil.rmtree(failed_dir(tier, table), ignore_errors=True)
    write_json(failed_dir(tier, table) / "error.json", started)
    final = run_dir(tier, table)
    with replacing_folder(final) as folder:
        handed = {key: job[key] for key in ("table", "parameters", "fingerprint")}
        scratch.ignore_published(job.get("from_scratch", False))
        origin = state() | {"from_scratch": scratch.from_scratch()}
        handed |= {"folder": str(folder), "prefix": sys.prefix, "state": origin}
        os.environ[RUN] = json.dumps(handed)
        own = Path(sys.prefix) / "share" / "jupyter"  # this environment's kernel before any other of its name
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(own), os.environ.get("JUPYTER_PATH")]))
        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
        os.environ.setdefault(
            "OMP_WAIT_POLICY", "PASSIVE"
        )  # threads that spin while they wait cost much on a busy machine
        try:
            papermill.execute_notebook(
                root() / job["notebook"],
                folder / "notebook.ipynb",
                parameters=job["parameters"],
                engine_name=_engine(progress),
                kernel_name="python3",
                progress_bar=False,
                stdout_file=progress,
                stderr_file=progress,
                cwd=root(),
                autosave_cell_every=0,
            )
            if not (folder / "result.json").is_file():
                raise RuntimeError(f"{job['notebook']} ended without calling record(...)")
            since = changes(job["fingerprint"], fingerprint(ledger.find(table), job["parameters"]))
            if since:
                raise RuntimeError(
                    f"changed while it ran, so the numbers belong to no one state: {'; '.join(since[:3])}"
                )
        except papermill.PapermillExecutionError as error:
            _keep_partial(folder, job, _describe(error))
            raise
        except RuntimeError as error:
            message = {"bad_input": False, "cell": None, "source": "", "error": "RuntimeError", "message": str(error)}
            _keep_partial(folder, job, message | {"traceback": ""})
            raise
        _finish(folder, job)
    shutil.rmtree(failed_dir(tier, table), ignore_errors=True)
    return final


def _finish(folder: Path, job: dict[str, Any]) -> None:
    """Take this machine's paths out of the executed notebook and seal it into the result."""
    path = folder / "notebook.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    notebook["metadata"].get("papermill", {}).update(input_path=job["notebook"], output_path="notebook.ipynb")
    write_json(path, notebook)
    result = results.read(folder / "result.json")
    names = [*result["files"], "notebook.ipynb"]
    write_json(folder / "result.json", results.seal(result | {"files": file_hashes(folder, names)}))


def main(arguments: list[str]) -> int:
    """Run the job in the file named by the only argument; the exit code is 0, 1 (failed) or 2 (bad input)."""
    follow()
    job = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    try:
        run(job)
    except Exception as error:
        kept = failed_dir(job["tier"], job["table"]) / "error.json"
        if not kept.is_file():
            raise
        return BAD_INPUT if json.loads(kept.read_text(encoding="utf-8"))["bad_input"] else FAILED if error else 0
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
