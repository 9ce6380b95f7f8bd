"""Runs one table's notebook through papermill: the job ``python -m mdrepro.reproduce.workflow.notebook JOB.json``.

A run appears whole in its folder (`folders.run_folder`) or not at all; a failed notebook keeps its partial copy, with
``error.json``, in ``<key>.failed/`` beside it.
"""

import json
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrepro.core.console import Prefixed
from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing_folder, sha256, swap, write_json, write_text
from mdrepro.core.library_warnings import leave_out_grammars
from mdrepro.core.paths import root
from mdrepro.core.provenance import state
from mdrepro.core.watchdog import follow
from mdrepro.papers import ledger
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.fingerprint import changes, fingerprint
from mdrepro.reproduce.workflow.folders import ERROR, NOTEBOOK, PARAMETERS, RESULT, failed, link_latest, run_folder
from mdrepro.reproduce.workflow.record import RUN
from mdrepro.training.runs import scratch

if TYPE_CHECKING:
    from nbformat import NotebookNode
    from papermill import PapermillExecutionError
    from papermill.engines import NotebookExecutionManager

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def failure_record(error: str, message: str, **more: Any) -> dict[str, Any]:
    """What ``error.json`` holds of a failure; ``more`` may give its cell, source, traceback and ``bad_input``."""
    known = {"bad_input": False, "cell": None, "source": "", "traceback": ""}
    return known | {"error": error, "message": message} | more


def _engine(progress: Prefixed) -> str:
    """The name of a papermill engine, registered here, that prints which cell it starts."""
    from papermill.engines import NBClientEngine, papermill_engines

    class Engine(NBClientEngine):
        @classmethod
        def execute_managed_notebook(cls, nb_man: "NotebookExecutionManager", kernel_name: str, **options: Any) -> Any:
            start, begun = nb_man.cell_start, time.monotonic()

            def cell_start(cell: "NotebookNode", cell_index: int = 0, **more: Any) -> None:
                if cell.cell_type == "code":
                    seconds = time.monotonic() - begun
                    progress.write(f"cell {cell_index + 1} of {len(nb_man.nb.cells)}, {seconds:.0f} s\n")
                start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **options)

    papermill_engines.register("mdrepro", Engine)
    return "mdrepro"


def _keep_partial(folder: Path, kept: Path, error: dict[str, Any]) -> None:
    write_json(folder / ERROR, error)
    for name in (RESULT, "result.csv"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "figures", ignore_errors=True)
    swap(folder, kept)


def _describe(error: "PapermillExecutionError | RuntimeError") -> dict[str, Any]:
    """What failed as JSON; of a cell its kind, message, source and the end of the traceback."""
    if isinstance(error, RuntimeError):
        return failure_record("RuntimeError", str(error))
    traceback = COLOUR.sub("", "\n".join(error.traceback))[-6000:]
    cell = {"cell": error.exec_count, "source": error.source, "traceback": traceback}
    bad_input = error.ename == BadInput.__name__
    return failure_record(error.ename, COLOUR.sub("", error.evalue), bad_input=bad_input, **cell)


def run(job: dict[str, Any]) -> None:
    """Execute one job, as `mdrepro.reproduce.workflow.plan.Job.as_dict` gives it. A failure keeps the partial copy.

    Raises papermill.PapermillExecutionError where a cell failed, and RuntimeError where it ended without recording a
    result, or what it rests on changed while it ran.
    """
    import papermill

    table, final = job["table"], run_folder(job["tier"], job["table"], job["parameters"])
    progress = Prefixed(job["name"], sys.stderr)
    message = "the process exited without an error message (killed, or out of memory?); the same command resumes"
    shutil.rmtree(failed(final), ignore_errors=True)
    write_json(failed(final) / ERROR, failure_record("Killed", message))
    write_json(failed(final) / PARAMETERS, job["parameters"])
    with replacing_folder(final) as folder:
        write_json(folder / PARAMETERS, job["parameters"])
        _set_environment(job, folder)
        try:
            papermill.execute_notebook(
                root() / job["notebook"],
                folder / NOTEBOOK,
                parameters=job["parameters"],
                engine_name=_engine(progress),
                kernel_name="python3",
                progress_bar=False,
                stdout_file=progress,
                stderr_file=progress,
                cwd=root(),
                autosave_cell_every=0,
            )
            if not (folder / RESULT).is_file():
                raise RuntimeError(f"{job['notebook']} ended without calling record(...)")
            if since := "; ".join(changes(job["fingerprint"], fingerprint(ledger.find(table), job["parameters"]))[:3]):
                raise RuntimeError(f"changed while it ran, so the numbers belong to no one state: {since}")
        except (papermill.PapermillExecutionError, RuntimeError) as error:
            _keep_partial(folder, failed(final), _describe(error))
            raise
        # This machine's paths are taken out of the executed notebook, which is then sealed into the result.
        notebook = json.loads((folder / NOTEBOOK).read_text(encoding="utf-8"))
        notebook["metadata"].get("papermill", {}).update(input_path=job["notebook"], output_path=NOTEBOOK)
        write_json(folder / NOTEBOOK, notebook)
        result = results.read(folder / RESULT)
        results.write(folder / RESULT, result, folder, [*result["files"], NOTEBOOK, PARAMETERS])
    link_latest(final)
    shutil.rmtree(failed(final), ignore_errors=True)


def _set_environment(job: dict[str, Any], folder: Path) -> None:
    """Environment variables that the notebook's kernel inherits: the job for `record`, and which kernel is started."""
    scratch.ignore_published(job.get("from_scratch", False))
    run = {key: job[key] for key in ("table", "parameters", "fingerprint")} | {"folder": str(folder)}
    run |= {"prefix": sys.prefix, "state": state() | {"from_scratch": scratch.from_scratch()}}
    os.environ[RUN] = json.dumps(run)
    own = Path(sys.prefix) / "share" / "jupyter"  # this environment's kernel before any other of its name
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(own), os.environ.get("JUPYTER_PATH")]))
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads cost much on a busy machine


def main(arguments: list[str]) -> int:
    """Run the job in the named file, and leave beside it which result it made (`plan.ended`).

    The exit code is 0, 1 (failed) or 2 (bad input).
    """
    follow()
    leave_out_grammars()
    file = Path(arguments[0])
    job = json.loads(file.read_text(encoding="utf-8"))
    final = run_folder(job["tier"], job["table"], job["parameters"])
    try:
        run(job)
        write_text(file.with_suffix(".ended"), sha256(final / RESULT))
    except Exception:
        kept = failed(final) / ERROR
        with suppress(FileNotFoundError):
            return 2 if json.loads(kept.read_text(encoding="utf-8"))["bad_input"] else 1
        raise
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
