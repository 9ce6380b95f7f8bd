"""A small paper and its runs, made by the real ``record``, with everything in it that a page could get wrong."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from matplotlib.figure import Figure

from mdrepro.core import paths, provenance
from mdrepro.core.files import file_hashes, replacing_folder, write_json
from mdrepro.evaluation.rows import Row
from mdrepro.papers import ledger
from mdrepro.papers.schema import Paper
from mdrepro.reproduce.workflow import folders, results
from mdrepro.reproduce.workflow.record import RUN, record
from tests.support import hostile_outputs
from tests.support.checkout import notebook

COST, VAE, UNRUN, LATER = (f"mobilediffusion-{name}" for name in ("cost", "vae", "unrun", "later"))
HOSTILE_REASON = "<script>alert('reason')</script> needs \"weights\" & </td></table> `get them` **now**"
HOSTILE_PROTOCOL = "</style><img src=x onerror=alert('protocol')> |a|b| *stars* :math:`x` {{ braces }}"
HOSTILE_NOTE = "<iframe src='https://example.org/note'></iframe> & a note"
HOSTILE_TITLE = "Size & cost <b>of</b> *all* `networks` |x|_"
NOT_HERE = "needs torchvision's alexnet weights: download them on a machine with a network"


def _tolerances(**fields: Any) -> dict[str, Any]:
    return {"tolerance": {"relative": 0.01}, "rerun": {"relative": 0.01}} | fields


def paper() -> Paper:
    """One paper: a table with a local run, one only published, one not run, one planned."""
    cells = [
        {"row": "sd", "column": "params", "value": 860, "confidence": "read-P", "source": "P: Table 1"},
        {
            "row": "lite",
            "column": "params",
            "value": 278,
            "confidence": "recalled",
            "source": "M",
            "note": HOSTILE_NOTE,
        },
        {"row": "md", "column": "params", "value": 386, "confidence": "inferred", "source": "M"},
        {"row": "sd", "column": "macs", "confidence": "not found"},
        {"row": "md", "column": "macs", "value": 182, "confidence": "read-S", "source": "P"},
        {"row": "lite", "column": "macs", "value": 117, "confidence": "read-S", "source": "P"},
    ]
    smaller = {
        "id": "smaller",
        "statement": "MobileDiffusion is smaller than SD & <i>that is that</i>.",
        "source": "P",
        "confidence": "read-P",
        "kind": "superiority",
        "conditions": [{"left": "md/params", "op": "<", "right": "sd/params"}],
    }
    base = {
        "rows": {"sd": "Stable Diffusion <1.5>", "md": "MobileDiffusion", "lite": "MobileDiffusion-Lite"},
        "columns": {
            "params": _tolerances(title="Parameters", unit="M", comparable_at=["quick"], protocol="all of them"),
            "macs": _tolerances(title="Multiply-accumulates", unit="GMAC", better="lower"),
            "psnr": _tolerances(title="PSNR", unit="dB", better="higher"),
        },
        "published_as": "Table 1 & more",
        "protocol": "As <published>.",
    }
    quick: dict[str, Any] = {"quick": {}}
    tables = [
        {"id": COST, "title": HOSTILE_TITLE, "notebook": _path(COST), "tiers": quick, "cells": cells} | base,
        {"id": VAE, "title": "Reconstruction", "notebook": _path(VAE), "tiers": quick} | base,
        {"id": UNRUN, "title": "Never run", "notebook": _path(UNRUN), "tiers": quick, "cells": cells} | base,
        {"id": LATER, "title": "Planned", "cells": cells} | base,
    ]
    tables[0]["claims"] = [smaller]
    tables[0]["needs"] = {"psnr": "photographs"}
    light = {"id": "light", "statement": "It is light.", "source": "P", "confidence": "read-P", "needs": "a scale"}
    tables[0]["unmeasured"] = [light]
    return Paper.model_validate(
        {
            "id": "mobilediffusion",
            "title": "MobileDiffusion: a paper",
            "arxiv": "2311.16567",
            "version": "v2",
            "authors": "A & B",
            "sources": {"P": {"what": "the paper <b>", "url": "https://example.org/paper"}, "M": {"what": "memory"}},
            "tables": tables,
        }
    )


def _path(table: str) -> str:
    return f"notebooks/mobilediffusion/{table.removeprefix('mobilediffusion-').replace('-', '_')}.ipynb"


def rows(params: float = 859.5) -> list[Row]:
    """Measured and not attempted cells of ``COST``; those left out are added by ``record``."""
    return [
        Row("sd", "params", params, HOSTILE_PROTOCOL),
        Row("md", "params", 390.0, HOSTILE_PROTOCOL),
        Row("lite", "params", 277.0, HOSTILE_PROTOCOL),
        Row("md", "macs", 200.0, "counted; on meta"),
        Row.absent("lite", "macs", HOSTILE_REASON),
        Row("sd", "psnr", 26.7, "mean; on photos", n=24, ci_low=26.1, ci_high=27.4, by_seed=(26.5, 26.9)),
        Row.absent("md", "psnr", NOT_HERE),
    ]


def executed(root: Path) -> nbformat.NotebookNode:
    """An executed notebook whose metadata and outputs hold paths, a formula, a widget's state and what would run."""
    output = nbformat.v4.new_output("stream", name="stdout", text=f"loaded {root}/data and {Path.home()}/.cache/x\n")
    code = nbformat.v4.new_code_cell("print('loaded')", execution_count=1, outputs=[output])
    text = nbformat.v4.new_markdown_cell("# Cost\n\nWith $n = \\frac{a}{b}$ tokens:\n\n$$x^2 + \\sqrt{y}$$\n")
    made = nbformat.v4.new_notebook(cells=[text, code, hostile_outputs.cell()])
    for number, cell in enumerate(made.cells):
        cell.id = f"cell-{number}"  # as in the notebooks here
    made.metadata |= {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
        "papermill": {"input_path": f"{root}/notebooks/x.ipynb", "output_path": f"{root}/out.ipynb"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {}, "version_major": 2}},
    }
    return made


def run(table: str, measured: list[Row], *, figure: bool = True) -> Path:
    """One complete local run of ``table`` at the quick tier, as the batch runner leaves it."""
    figures = {}
    if figure:
        figures["cost"] = Figure()
        figures["cost"].subplots().plot([1, 2])
    values = {"tier": "quick", "seed": 0}
    final = folders.run_folder("quick", table, values)
    with replacing_folder(final) as folder, pytest.MonkeyPatch.context() as patch:
        told = {"folder": str(folder), "table": table, "parameters": values, "fingerprint": {}}
        told |= {"prefix": sys.prefix, "state": provenance.state()}
        patch.setenv(RUN, json.dumps(told))
        record(table, measured, figures=figures)
        nbformat.write(executed(paths.root()), folder / "notebook.ipynb")
        result = results.read(folder / "result.json")
        files = result["files"] | file_hashes(folder, ["notebook.ipynb"])
        write_json(folder / "result.json", results.seal(result | {"files": files}))
    return final


def sweep(table: str, values: dict[int, float]) -> Path:
    """What a batch over seeds leaves beside the runs of ``table``: a run for each seed, its UNet's size in millions."""
    runs = {folders.key(one): one for one in ({"tier": "quick", "seed": seed} for seed in [*values, 99])}
    home = paths.runs_of("quick", table) / "sweeps" / "0123456789ab"
    home.mkdir(parents=True)
    write_json(home / "parameters.json", runs)
    lines = ["run,seed,seconds,made,row,column,unit,value,ci_low,ci_high,n,verdict"]
    for (run, one), value in zip(runs.items(), values.values(), strict=False):
        lines.append(f"{run},{one['seed']},1,2026-01-01,sd,params,M,{value},,,1,within noise")
    (home / "summary.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Figure().savefig(home / "figure.png")
    return home


def publish(table: str) -> None:
    """The local run of ``table`` as a published result."""
    folder, final = folders.default_run("quick", table), paths.published("quick")
    result = results.read(folder / "result.json")
    (final / "figures").mkdir(parents=True, exist_ok=True)
    results.write_csv(final / f"{table}.csv", result["rows"])
    names = [f"{table}.csv"]
    for file in (folder / "figures").iterdir():
        names.append(f"figures/{table}-{file.name}")
        (final / names[-1]).write_bytes(file.read_bytes())
    origin = result["provenance"] | {"notebook_sha256": result["files"]["notebook.ipynb"]}
    files = file_hashes(final, names)
    write_json(final / f"{table}.json", results.seal(result | {"provenance": origin, "files": files}))


@contextmanager
def home(folder: Path) -> Iterator[Path]:
    """An empty checkout in ``folder`` with the small paper, a clean commit and no heavy imports."""
    with pytest.MonkeyPatch.context() as patch:
        for table in paper().tables:
            file = folder / _path(table.id)
            file.parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook('tier: str = "quick"\nseed: int = 0', "print(seed)"), file)
        patch.setenv("MDREPRO_ROOT", str(folder))
        paths.root.cache_clear()
        patch.setattr(ledger, "papers", lambda: {"mobilediffusion": paper()})
        machine = {"cpu": "toy <cpu>", "cores": 2, "memory_gib": 4.0, "gpus": []}
        patch.setattr(provenance, "hardware", lambda: machine)
        patch.setattr(provenance, "commit", lambda: "0123456789abcdef0123456789abcdef01234567")
        patch.setattr(provenance, "dirty", lambda: [])
        yield folder
    paths.root.cache_clear()
