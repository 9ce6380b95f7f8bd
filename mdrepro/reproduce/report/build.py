"""The report: a static site with every verdict, one page a table, and the way back from each number to its run.

Built by Sphinx (theme furo, executed notebooks by myst-nb) from local runs, published results and the papers' data.
It loads nothing from another host and opens from the file system.
"""

import html
import importlib.metadata
import importlib.util
import json
import re
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from mdrepro.core.errors import BadInput
from mdrepro.core.files import replacing_folder, sha256, write_json, write_text
from mdrepro.core.paths import published, relative, run_dir, runs
from mdrepro.papers import ledger, underspecified
from mdrepro.papers.schema import TIERS, Paper, Table, Tier
from mdrepro.reproduce.report import api, views
from mdrepro.reproduce.report.render import SITE, sphinx
from mdrepro.reproduce.report.views import RunView
from mdrepro.reproduce.workflow.fingerprint import Fingerprint, changes

STAMP = "report.json"
"""Inside a built report: the hashes of everything that it was made from."""
NEEDS = {"sphinx": "sphinx", "furo": "furo", "myst_nb": "myst-nb"}
RULES = "=-^"
UNDERSPECIFIED = "underspecified"
"""Name of the page that shows the underspecification register."""


def build(out: Path | None = None, *, tier: str | None = None, strict: bool = False) -> Path:
    """Build the report where it is out of date, aside and renamed, and return its ``index.html``.

    Args:
        out: the report's folder; None is ``papermill_runs/report``.
        tier: show only this tier; None shows all.
        strict: a warning of Sphinx ends the build.

    Raises:
        BadInput: ``out`` holds something else than a report, the tier is unknown, a result file cannot be read, or
            the report's packages are not installed.
        RuntimeError: Sphinx failed; the message is its output. An older report stays in place.
    """
    final = _folder(out)
    tiers = _tiers(tier)
    if not stale(out, tier=tier):
        return final / "index.html"
    if missing := [name for module, name in NEEDS.items() if importlib.util.find_spec(module) is None]:
        raise BadInput(f"the report needs {', '.join(missing)}: install them with pip install -e '.[report]'")
    now = _inputs(tiers)
    with replacing_folder(final) as folder, tempfile.TemporaryDirectory(prefix="mdrepro-report-") as scratch:
        source = Path(scratch) / "source"
        _Sources(source, folder, tiers).write()
        sphinx(source, folder, strict=strict)
        shutil.copytree(api.build(strict), folder / "api")
        write_json(folder / STAMP, now)
    return final / "index.html"


def stale(out: Path | None = None, *, tier: str | None = None) -> list[str]:
    """Why the report has to be built, in words; empty when nothing that it shows has changed.

    Raises:
        BadInput: ``out`` holds something else than a report, or the tier is unknown.
    """
    final = _folder(out)
    if not (final / "index.html").is_file() or not (final / STAMP).is_file():
        return ["there is no report yet"]
    try:
        before = json.loads((final / STAMP).read_text(encoding="utf-8"))
        return changes(before, _inputs(_tiers(tier)))
    except (ValueError, AttributeError):
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
    complete = [path.parent for tier in tiers for path in (runs() / tier).glob("[!.]*/result.json")]
    shown = [folder / name for folder in complete for name in ("result.json", "result.csv", "notebook.ipynb")]
    shown += [path for folder in complete for path in folder.glob("figures/*")]
    shown += [path for tier in tiers for path in published(tier).rglob("*") if path.suffix != ".safetensors"]
    code = [*SITE.rglob("*.*"), *home.glob("*.py"), home.parent / "workflow" / "results.py"]
    papers = [path for path in home.parents[1].glob("papers/*") if path.suffix in (".py", ".yaml")]
    return {
        "result": {relative(path): sha256(path) for path in sorted(shown) if path.is_file()},
        "papers": {path.name: sha256(path) for path in (*sorted(papers), underspecified.FILE)},
        "report code": {path.name: sha256(path) for path in sorted(code) if path.is_file()},
        "package code": {"api": api.code_hash()},
        "version": {name: _version(name) for name in NEEDS.values()},
        "tiers": dict.fromkeys(tiers, True),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class Part(NamedTuple):
    """A section of a page: heading ("" for none), level 1 or 2, and its HTML."""

    heading: str
    level: int
    body: str


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
    """Every page's source in ``source``, and in ``site`` the raw files that the pages link to."""

    def __init__(self, source: Path, site: Path, tiers: tuple[Tier, ...]) -> None:
        import jinja2

        self.source, self.site, self.papers = source, site, ledger.papers()
        loader = jinja2.FileSystemLoader(SITE / "templates")
        self.templates = jinja2.Environment(
            loader=loader, undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self.templates.filters |= {"portable": views.portable, "tolerance": views.tolerance}
        self.templates.globals |= {"glyphs": views.GLYPHS, "tags": views.TAGS, "TIERS": TIERS}
        self.templates.globals |= {"verdicts": views.VERDICTS, "claim_verdicts": views.CLAIM_VERDICTS}
        tables = {table.id: table for paper in self.papers.values() for table in paper.tables}
        self.seen = {name: views.run_views(table, tiers) for name, table in tables.items()}
        self.shown = {name: table for name, table in tables.items() if table.notebook or self.seen[name]}

    def write(self) -> None:
        """Write all of them."""
        for name, table in self.shown.items():
            for view in self.seen[name]:
                _copy(view, self.site, self.source)
            self._table(table, self.seen[name])
        for paper in self.papers.values():
            values = {"paper": paper, "seen": self.seen, "shown": self.shown, "up": "../"}
            tables = [self._part(table.title, 1, "ledger", table=table, **values) for table in paper.tables]
            self._page(f"papers/{paper.id}", paper.title, [self._part("", 1, "paper", **values), *tables])
        self._underspecified()
        self._overview()

    def _part(self, heading: str, level: int, template: str, **values: object) -> Part:
        return Part(heading, level, self.templates.get_template(f"{template}.html.jinja").render(**values))

    def _page(self, name: str, title: str, parts: list[Part], tail: str = "") -> None:
        """Write one page: real headings (for search and navigation) around HTML that the templates made."""
        lines = [":hide-toc:", "", _rst(title), RULES[0] * 2 * (len(title) + 9), ""]
        for index, part in enumerate(parts):
            fragment = self.source / "fragments" / f"{name.replace('/', '-')}-{index}.html"
            fragment.parent.mkdir(parents=True, exist_ok=True)
            fragment.write_text(part.body, encoding="utf-8")
            if part.heading:
                lines += [_rst(part.heading), RULES[part.level] * 2 * (len(part.heading) + 9), ""]
            lines += [".. raw:: html", f"   :file: {'../' * name.count('/')}fragments/{fragment.name}", ""]
        write_text(self.source / f"{name}.rst", "\n".join([*lines, tail]))

    def _underspecified(self) -> None:
        entries = underspecified.register().entries
        parts = [self._part("", 1, "underspecified_head", count=len(entries))]
        for name, title in {name: _short(paper) for name, paper in self.papers.items()}.items():
            mine = [entry for entry in entries if entry.paper == name]
            parts.append(self._part(title, 1, "underspecified", paper=title, entries=mine))
        self._page(UNDERSPECIFIED, "What the papers leave out", parts)

    def _overview(self) -> None:
        every = [view for each in self.seen.values() for view in each]
        totals = sum((Counter(view.counts) for view in every), Counter[str]())
        claims = Counter(claim.verdict for view in every for claim in view.claims)
        planned = {
            paper.id: [table for table in paper.tables if table.id not in self.shown] for paper in self.papers.values()
        }
        values = {"papers": self.papers, "up": ""}
        parts = [self._part("", 1, "overview", every=every, totals=totals, claims=claims, **values)]
        for paper in self.papers.values():
            mine = [table for table in paper.tables if table.id in self.shown]
            parts.append(self._part(_short(paper), 1, "cards", paper=paper, tables=mine, seen=self.seen, up=""))
        parts.append(self._part("Planned", 1, "planned", planned=planned, **values))
        parts.append(self._part("How to read this", 1, "legend", up=""))
        data = {f"papers/{name}": _short(paper) for name, paper in self.papers.items()}
        notebooks = {
            f"notebooks/{view.tier}/{view.table.id}": f"{view.table.title} ({view.tier})"
            for view in every
            if _notebook(view)
        }
        tail = _toctree("Tables", {f"tables/{name}": table.title for name, table in self.shown.items()})
        tail += _toctree("The papers as data", data | {UNDERSPECIFIED: "What the papers leave out"})
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
        parts.append(self._part("Sources", 1, "sources", **values))
        self._page(f"tables/{table.id}", table.title, parts)


def _notebook(view: RunView) -> str:
    """The page of a run's executed notebook, relative to the site; "" where there is none."""
    there = view.origin == "local" and (run_dir(view.tier, view.table.id) / "notebook.ipynb").is_file()
    return f"notebooks/{view.tier}/{view.table.id}.html" if there else ""


def _raw(view: RunView) -> dict[str, Path]:
    """The run's own files by their place inside ``files/<slug>/<table>/``."""
    name = view.table.id
    if view.origin == "local":
        folder = run_dir(view.tier, name)
        files = {item: folder / item for item in ("result.json", "result.csv", "notebook.ipynb")}
    else:
        folder = published(view.tier)
        files = {"result.json": folder / f"{name}.json", "result.csv": folder / f"{name}.csv"}
    for stem in view.figures:
        own = stem if view.origin == "local" else f"{name}-{stem}"
        files |= {f"figures/{stem}{ending}": folder / "figures" / f"{own}{ending}" for ending in (".svg", ".png")}
    return {place: path for place, path in files.items() if path.is_file()}


def _copy(view: RunView, site: Path, source: Path) -> None:
    """Copy a run's files into the site, and its notebook, with a banner that leads back, among the sources."""
    for place, path in _raw(view).items():
        target = site / "files" / view.slug / view.table.id / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".ipynb":
            shutil.copyfile(path, target)
            continue
        text = views.portable(path.read_text(encoding="utf-8"))
        target.write_text(text, encoding="utf-8")
        page = source / "notebooks" / view.tier / f"{view.table.id}.ipynb"
        write_text(page, json.dumps(_rendered(json.loads(text), view)))


def _rendered(notebook: dict[str, Any], view: RunView) -> dict[str, Any]:
    """The notebook as it is rendered: without widget state, and with a banner under its title."""
    notebook["metadata"] = {key: notebook["metadata"].get(key, {}) for key in ("kernelspec", "language_info")}
    dirty = ", uncommitted changes" if view.provenance.get("dirty") else ""
    banner = (
        f'<p class="md-banner">Executed notebook of <a href="../../tables/{view.table.id}.html#{view.slug}">'
        f"{html.escape(view.table.title)}</a> · {view.tier} tier · commit {html.escape(view.short_commit)}{dirty} · "
        f'<a href="../../files/{view.slug}/{view.table.id}/notebook.ipynb" download>download</a></p>'
    )
    cells = notebook["cells"]
    titled = bool(cells) and cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
    extra = [{"cell_type": "markdown", "metadata": {}, "source": banner}]
    if not titled:
        extra.insert(0, {"cell_type": "markdown", "metadata": {}, "source": f"# Notebook of {view.table.id}"})
    notebook["cells"] = [*cells[:1], *extra, *cells[1:]] if titled else [*extra, *cells]
    for index, cell in enumerate(notebook["cells"]):
        cell.setdefault("id", f"cell-{index}")
    return notebook
