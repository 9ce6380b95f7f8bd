"""The report: a static site with every verdict, one page a table, and the way back from each number to its run.

Built by Sphinx (theme furo, executed notebooks by myst-nb) from local runs, published results and the papers' data.
It loads nothing from another host and opens from the file system.
"""

import html
import importlib.util
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing_folder, sha256, sweep, write_json
from mdrepro.core.paths import published, relative, runs, shipped
from mdrepro.core.provenance import installed
from mdrepro.core.reading import read_json
from mdrepro.papers import ledger, underspecified, unmeasured
from mdrepro.papers.schema import TIERS, Paper, Table, Tier
from mdrepro.reproduce import audit, export_table
from mdrepro.reproduce.formatting import demand, subject, unit_of
from mdrepro.reproduce.report import api, legend, sweeps, views
from mdrepro.reproduce.report.captions import caption
from mdrepro.reproduce.report.harmless import harmless
from mdrepro.reproduce.report.render import SITE, bibtex, plain, prose, sphinx
from mdrepro.reproduce.report.sweeps import Sweep
from mdrepro.reproduce.report.views import RunView
from mdrepro.reproduce.workflow.fingerprint import Fingerprint, changes
from mdrepro.reproduce.workflow.folders import default_run

STAMP = "report.json"  # inside a built report: the hashes of everything that it was made from
NEEDS = {"sphinx": "sphinx", "furo": "furo", "myst_nb": "myst-nb", "nh3": "nh3"}
RULES = "=-^"
UNDERSPECIFIED, AUDIT, UNMEASURED = "underspecified", "audit", "unmeasured"
READING, CITING = "reading", "citing"
CITATION = shipped("CITATION.cff")
FIGURES = re.compile(r"figures=\{(.*?)\}")  # recorded ones, by their names, in a notebook's code
FOLDED = 20  # lines from which a sweep's table is folded
CONTENTS = 3  # headings from which a page begins with a list of them


def build(out: Path | None = None, *, tier: str | None = None, strict: bool = False) -> Path:
    """Build the report where it is out of date, aside and renamed, and return its ``index.html``.

    ``out``: the report's folder; None is ``papermill_runs/report``. ``tier``: show only this tier; None shows all.
    ``strict``: a warning of Sphinx ends the build. Raises BadInput where ``out`` holds something else than a report,
    the tier is unknown, a result file cannot be read, or the report's packages are not installed, and RuntimeError
    where Sphinx failed, with its output. An older report stays in place.
    """
    final, tiers = _folder(out), _tiers(tier)
    sweep(final.parent, final.name)  # also where nothing has to be built: what a kill left after the exchange
    if not stale(out, tier=tier):
        return final / "index.html"
    if missing := [name for module, name in NEEDS.items() if importlib.util.find_spec(module) is None]:
        raise BadInput(f"the report needs {', '.join(missing)}: install them with pip install -e '.[report]'")
    now = _inputs(tiers)
    with replacing_folder(final) as folder:
        sphinx(_Sources(folder, tiers).texts, folder, strict=strict)
        shutil.copytree(api.build(strict), folder / "api")
        write_json(folder / STAMP, now)
    return final / "index.html"


def stale(out: Path | None = None, *, tier: str | None = None) -> list[str]:
    """Why the report has to be built; empty when nothing that it shows has changed. Arguments as of `build`."""
    final, tiers = _folder(out), _tiers(tier)
    if not (final / "index.html").is_file() or not (final / STAMP).is_file():
        return ["there is no report yet"]
    try:
        return changes(read_json(final / STAMP, dict[str, dict[str, Any]]), _inputs(tiers))
    except BadInput:
        return [f"{STAMP} cannot be read"]


def _folder(out: Path | None) -> Path:
    final = runs() / "report" if out is None else Path(out).resolve()
    if final.exists() and not (final.is_dir() and ((final / STAMP).is_file() or not any(final.iterdir()))):
        raise BadInput(f"{relative(final)} exists and is not a report: choose a new or empty folder")
    return final


def _tiers(tier: str | None) -> tuple[Tier, ...]:
    return TIERS if tier is None else (ledger.check_tier(tier),)


def _inputs(tiers: tuple[Tier, ...]) -> Fingerprint:
    """Hashes of results, runs, papers, code and templates, and the versions that render them."""
    home = Path(__file__).parent
    complete = [default_run(tier, name) for tier in tiers for name in ledger.tables()]
    shown = [folder / name for folder in complete for name in ("result.json", "result.csv", "notebook.ipynb")]
    shown += [path for folder in complete for path in folder.glob("figures/*")]
    shown += [path for tier in tiers for path in published(tier).rglob("*") if path.suffix != ".safetensors"]
    shown += [path for tier in tiers for name in ledger.tables() for path in sweeps.files(tier, name)]
    code = [*SITE.rglob("*.*"), *home.glob("*.py"), home.parent / "formatting.py", home.parent / "export_table.py"]
    code.append(home.parent / "workflow" / "results.py")
    papers = sorted(path for path in home.parents[1].glob("papers/*") if path.suffix in (".py", ".yaml"))
    papers += [path for path in (underspecified.FILE, CITATION) if path.is_file()]
    return {
        "result": {relative(path): sha256(path) for path in sorted(shown) if path.is_file()},
        "papers": {path.name: sha256(path) for path in papers},
        "report code": {path.name: sha256(path) for path in sorted(code) if path.is_file()},
        "package code": {"api": api.code_hash()},
        "version": dict.fromkeys(NEEDS.values()) | installed(NEEDS.values()),
        "tiers": dict.fromkeys(tiers, True),
    }


Part = tuple[str, int, str]
"""A section of a page: heading ("" for none), level 1 or 2, and its HTML."""


def _rst(text: str) -> str:
    """``text`` with nothing in it that reStructuredText would read as markup."""
    return re.sub(r"([^\w\s])", r"\\\1", " ".join(text.split()))


def _toctree(caption: str, entries: dict[str, str]) -> str:
    if not entries:
        return ""
    lines = [f"   {re.sub('[<>`]', '', title)} <{name}>" for name, title in entries.items()]
    return "\n".join([".. toctree::", "   :hidden:", f"   :caption: {caption}", "", *lines, "", ""])


def _short(paper: Paper) -> str:
    return paper.title.partition(":")[0]


class _Sources:
    """Every page's source in ``texts``, and in ``site`` the raw files that the pages link to."""

    def __init__(self, site: Path, tiers: tuple[Tier, ...]) -> None:
        import jinja2

        self.site, self.papers = site, ledger.papers()
        self.texts: dict[str, str] = {}
        loader = jinja2.FileSystemLoader(SITE / "templates")
        self.templates = jinja2.Environment(
            loader=loader, undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        filters: dict[str, Any] = {"portable": views.portable, "tolerance": views.tolerance, "caption": caption}
        filters |= {"prose": prose, "plain": plain, "subject": lambda condition, table: subject(table, condition)}
        filters |= {"demand": lambda condition, table: demand(condition, unit_of(table, condition.left))}
        self.templates.filters |= filters
        self.templates.globals |= {"glyphs": legend.GLYPHS, "tags": legend.TAGS}
        self.templates.globals |= {"verdicts": legend.VERDICTS, "claim_verdicts": legend.CLAIM_VERDICTS}
        tables = {table.id: table for paper in self.papers.values() for table in paper.tables}
        self.seen = {
            name: [view for tier in tiers if (view := views.run_view(table, tier))] for name, table in tables.items()
        }
        self.sweeps = {
            name: [one for tier in tiers for one in sweeps.read(table, tier)] for name, table in tables.items()
        }
        self.shown = {name: table for name, table in tables.items() if table.notebook or self.seen[name]}
        for name, table in self.shown.items():
            for view in self.seen[name]:
                self._copy(view)
            self._table(table, self.seen[name])
            for batch in self.sweeps[name]:
                self._sweep(batch)
        for paper in self.papers.values():
            values = {"paper": paper, "seen": self.seen, "shown": self.shown, "up": "../"}
            cells = [self._part(table.title, 1, "ledger", table=table, **values) for table in paper.tables]
            self._page(f"papers/{paper.id}", paper.title, [self._part("", 1, "paper", **values), *cells])
        self._underspecified()
        self._audit()
        self._unmeasured()
        self._reading()
        self._citing()
        self._overview()

    def _part(self, heading: str, level: int, template: str, **values: object) -> Part:
        return heading, level, self.templates.get_template(f"{template}.html.jinja").render(**values)

    def _page(self, name: str, title: str, parts: list[Part], tail: str = "") -> None:
        """Write one page: real headings (for search and navigation) around HTML that the templates made."""
        lines = [":hide-toc:", "", _rst(title), RULES[0] * 2 * (len(title) + 9), ""]
        entries: list[tuple[str, str, list[tuple[str, str]]]] = []
        for index, (heading, level, _) in enumerate(parts):
            if heading and level > 1 and entries:
                entries[-1][2].append((f"part-{index}", heading))
            elif heading:
                entries.append((f"part-{index}", heading, []))
        long = len(entries) + sum(len(below) for *_, below in entries) >= CONTENTS
        contents = self._part("", 1, "contents", entries=entries)[2] if long else ""
        for index, (heading, level, body) in enumerate(parts):
            fragment = f"fragments/{name.replace('/', '-')}-{index}.html"
            self.texts[fragment] = body + contents if index == 0 else body
            if heading:
                lines += [".. raw:: html", "", f'   <span id="part-{index}"></span>', ""]
                lines += [_rst(heading), RULES[level] * 2 * (len(heading) + 9), ""]
            lines += [".. raw:: html", f"   :file: {'../' * name.count('/')}{fragment}", ""]
        self.texts[f"{name}.rst"] = "\n".join([*lines, tail])

    def _underspecified(self) -> None:
        entries = underspecified.register().entries
        parts = [self._part("", 1, "underspecified_head", count=len(entries))]
        for name, paper in self.papers.items():
            mine = [entry for entry in entries if entry.paper == name]
            parts.append(self._part(_short(paper), 1, "underspecified", paper=_short(paper), entries=mine))
        self._page(UNDERSPECIFIED, "What the papers leave out", parts)

    def _audit(self) -> None:
        audits = audit.audit()
        faults, examples = [one for one in audits if one.faults], sum(one.examples_only for one in audits)
        parts = [self._part("", 1, "audit_head", count=len(audits), faults=faults, examples=examples)]
        for table in dict.fromkeys(one.table for one in audits):
            title, mine = ledger.find(table, planned=True).title, [one for one in audits if one.table == table]
            parts.append(self._part(title, 1, "audit", table=table, audits=mine, worlds=audit.WORLDS))
        self._page(AUDIT, "The claims, audited", parts)

    def _unmeasured(self) -> None:
        every = [(table, unmeasured.gaps(table)) for paper in self.papers.values() for table in paper.tables]
        parts = [self._part("", 1, "unmeasured_head", count=sum(len(gaps) for _, gaps in every))]
        for table, gaps in every:
            if gaps:
                parts.append(self._part(table.title, 1, "unmeasured", table=table.id, gaps=gaps))
        self._page(UNMEASURED, "What is measured at no tier", parts)

    def _reading(self) -> None:
        """How verdicts are to be read, by the first reproduced cell and the first claim that holds."""
        every = [view for each in self.seen.values() for view in each]
        cells = (
            {"view": cell, "row": view.table.rows[row], "column": view.table.columns[name]}
            for view in every
            for row, line in view.cells.items()
            for name, cell in line.items()
            if cell.verdict == "reproduced"
        )
        claims = (claim for view in every for claim in view.claims if claim.verdict == "holds")
        values = {"cell": next(cells, None), "claim": next(claims, None)}
        parts = [self._part("", 1, "reading", **values), self._part("All verdicts and marks", 1, "legend", up="")]
        self._page(READING, "How to read a verdict", parts)

    def _citing(self) -> None:
        if CITATION.is_file():
            citation = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
            self._page(CITING, "How to cite", [self._part("", 1, "citing", bibtex=bibtex(citation))])

    def _overview(self) -> None:
        every = [view for each in self.seen.values() for view in each]
        totals = sum((Counter(view.counts) for view in every), Counter[str]())
        claims = Counter(claim.verdict for view in every for claim in view.claims)
        values = {"papers": self.papers, "up": "", "citing": f"{CITING}.rst" in self.texts}
        planned: dict[str, list[Table]] = {}
        parts = [self._part("", 1, "overview", every=every, totals=totals, claims=claims, **values)]
        for paper in self.papers.values():
            mine = [table for table in paper.tables if table.id in self.shown]
            planned[paper.id] = [table for table in paper.tables if table.id not in self.shown]
            parts.append(self._part(_short(paper), 1, "cards", paper=paper, tables=mine, seen=self.seen, up=""))
        batches = [batch for name in self.shown for batch in self.sweeps[name]]
        if batches:
            parts.append(self._part("Sweeps", 1, "sweep_list", sweeps=batches, whole=True, up=""))
        parts.append(self._part("Planned", 1, "planned", planned=planned, **values))
        data = {f"papers/{name}": _short(paper) for name, paper in self.papers.items()}
        executed = [view for view in every if _notebook(view)]
        notebooks = {f"notebooks/{each.tier}/{each.table.id}": f"{each.table.title} ({each.tier})" for each in executed}
        tail = _toctree("Tables", {f"tables/{name}": table.title for name, table in self.shown.items()})
        data |= {UNDERSPECIFIED: "What the papers leave out", AUDIT: "The claims, audited"}
        about = {READING: "How to read a verdict", CITING: "How to cite"}
        tail = _toctree("About", {name: text for name, text in about.items() if f"{name}.rst" in self.texts}) + tail
        tail += _toctree("The papers as data", data | {UNMEASURED: "What is measured at no tier"})
        tail += _toctree("Sweeps", {f"sweeps/{each.slug}": f"{each.table.title}: {each.title}" for each in batches})
        tail += _toctree("Executed notebooks", notebooks)
        self._page("index", "mdrepro: the tables of MobileDiffusion and SnapFusion, reproduced", parts, tail)

    def _table(self, table: Table, seen: list[RunView]) -> None:
        values = {"paper": ledger.paper_of(table), "table": table, "views": seen, "up": "../"}
        parts = [self._part("", 1, "head", **values)]
        for view in seen:
            more = values | {"view": view, "notebook": _notebook(view), "raw": _raw(view)}
            sections = {"Claims": "claims"} if table.claims else {}
            sections |= {"Figures": "figures"} if view.figures else {}
            sections |= {"Numbers": "numbers", "How it was measured": "notes", "Provenance": "provenance"}
            parts.append(self._part(f"{view.tier.capitalize()} tier", 1, "run", **more))
            parts += [self._part(title, 2, template, **more) for title, template in sections.items()]
        if not seen:
            parts.append(self._part("Not run yet", 1, "unrun", **values))
        if mine := self.sweeps[table.id]:
            parts.append(self._part("Sweeps", 1, "sweep_list", sweeps=mine, whole=False, up="../"))
        parts.append(self._part("Sources", 1, "sources", **values))
        self._page(f"tables/{table.id}", table.title, parts)

    def _sweep(self, batch: Sweep) -> None:
        """A batch's page, and its summary, figure and notebooks as files of the site."""
        place, figure, notebooks = f"files/sweeps/{batch.slug}", batch.figure, batch.notebooks
        (self.site / place).mkdir(parents=True, exist_ok=True)
        for path in (batch.folder / sweeps.SUMMARY, *figure.values()):
            shutil.copyfile(path, self.site / place / path.name)
        for run, path in notebooks.items():
            text = views.portable(path.read_text(encoding="utf-8"))
            (self.site / place / f"{run}.ipynb").write_text(text, encoding="utf-8")
        values = {"sweep": batch, "table": batch.table, "here": f"../{place}", "up": "../", "most": FOLDED}
        drawn, full = next(iter(figure), ""), "svg" if "svg" in figure else "png"
        parts = [self._part("", 1, "sweep", drawn=drawn, full=full, **values)]
        if means := batch.means():
            parts.append(self._part("Over seeds", 1, "sweep_means", means=means, **values))
        lines = {"values": batch.values(), "notebooks": notebooks}
        parts.append(self._part("By run", 1, "sweep_values", **values, **lines))
        self._page(f"sweeps/{batch.slug}", f"{batch.table.title}: {batch.title}", parts)

    def _copy(self, view: RunView) -> None:
        """Copy a run's files into the site, and its notebook, with a banner that leads back, among the sources.

        Beside them the table as LaTeX and Markdown.
        """
        for form, ending in export_table.ENDINGS.items():
            if form != "csv":
                file = self.site / "files" / view.slug / view.table.id / f"table.{ending}"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(export_table.export(view.table, view.result, form), encoding="utf-8")
        for place, path in _raw(view).items():
            target = self.site / "files" / view.slug / view.table.id / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix != ".ipynb":
                shutil.copyfile(path, target)
                continue
            text = views.portable(path.read_text(encoding="utf-8"))
            target.write_text(text, encoding="utf-8")
            self.texts[f"notebooks/{view.tier}/{view.table.id}.ipynb"] = json.dumps(_rendered(json.loads(text), view))


def _notebook(view: RunView) -> str:
    """The page of a run's executed notebook, relative to the site; "" where there is none."""
    there = view.origin == "local" and (view.folder / "notebook.ipynb").is_file()
    return f"notebooks/{view.tier}/{view.table.id}.html" if there else ""


def _raw(view: RunView) -> dict[str, Path]:
    """The run's own files by their place inside ``files/<slug>/<table>/``."""
    stem, prefix = ("result", "") if view.origin == "local" else (view.table.id, f"{view.table.id}-")
    files = {"result.json": f"{stem}.json", "result.csv": f"{stem}.csv", "notebook.ipynb": "notebook.ipynb"}
    for figure in [f"{name}{ending}" for name in view.figures for ending in (".svg", ".png")]:
        files[f"figures/{figure}"] = f"figures/{prefix}{figure}"
    return {target: view.folder / name for target, name in files.items() if (view.folder / name).is_file()}


def _rendered(notebook: dict[str, Any], view: RunView) -> dict[str, Any]:
    """The notebook as it is rendered: outputs that can do no harm, no widget state, a banner under its title."""
    harmless(notebook)
    notebook["metadata"] = {key: notebook["metadata"].get(key, {}) for key in ("kernelspec", "language_info")}
    dirty, name = ", uncommitted changes" if view.provenance.get("dirty") else "", view.table.id
    banner = (
        f'<p class="md-banner">Executed notebook of <a href="../../tables/{name}.html#{view.slug}">'
        f"{html.escape(view.table.title)}</a> · {view.tier} tier · commit {html.escape(view.short_commit)}{dirty} · "
        f'<a href="../../files/{view.slug}/{name}/notebook.ipynb" download>download</a></p>'
    )
    cells = notebook["cells"]
    text = {"cell_type": "markdown", "metadata": {}}
    head, below = text | {"source": f"# Notebook of {name}"}, text | {"source": banner}
    if cells and cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# "):
        head = cells.pop(0)
    notebook["cells"] = [head, below, *cells]
    sources = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    stems = {variable: stem for stem, variable in re.findall(r'"(\w+)": (\w+)', "".join(FIGURES.findall(sources)))}
    for index, cell in enumerate(notebook["cells"]):
        cell.setdefault("id", f"report-{index}")  # notebooks name theirs cell-0, cell-1
        if any("image/png" in output.get("data", {}) for output in cell.get("outputs", ())):
            last = "".join(cell["source"]).strip().rpartition("\n")[2]
            shown = caption(view.table, stems.get(last, f"output of cell {index}"))
            alternative = {"image": {"alt": shown.alternative}, "figure": {"caption": shown.text}}
            cell["metadata"]["mystnb"] = alternative
    return notebook
