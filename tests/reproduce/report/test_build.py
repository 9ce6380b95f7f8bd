"""The report: complete, honest, self-contained, escaped, rebuilt exactly when something changed."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest

from mdrepro.core import provenance
from mdrepro.core.errors import BadInput
from mdrepro.core.files import write_json
from mdrepro.core.paths import relative
from mdrepro.papers import ledger, underspecified, unmeasured
from mdrepro.papers.claims import ClaimVerdict
from mdrepro.papers.schema import Tolerance, Verdict
from mdrepro.reproduce.report import api, build, legend, sweeps, views
from mdrepro.reproduce.report.mathml import render
from mdrepro.reproduce.workflow import results
from mdrepro.reproduce.workflow.folders import default_run
from tests.support import browser
from tests.support import small_paper as fixture
from tests.support import toy_package as toys

COST_PAGE = f"tables/{fixture.COST}.html"
SWEEP = f"quick-{fixture.COST}-0123456789ab"
SIZES = {0: 859.5, 1: 861.0, 2: 866.0}


class Page(HTMLParser):
    """What matters of a page: links, resources, ids, tags with handlers, and the text of elements that have an id."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.resources: list[str] = []
        self.ids: set[str] = set()
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.inline: list[str] = []
        self._tag = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self._tag = tag
        self.tags.append(tag)
        self.ids |= {given["id"]} if "id" in given else set()
        self.handlers += [name for name in given if name.startswith("on")]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "href" in given:
            self.resources.append(given["href"])
        self.resources += [given[name] for name in ("src", "srcset", "poster", "data", "action") if given.get(name)]
        self.inline.append(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self._tag == "style":
            self.inline.append(data)
        self.text += data if self._tag not in ("style", "script") else ""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A strictly built site: ``COST`` run from a dirty commit after another number was published, ``VAE`` published."""
    with fixture.home(tmp_path_factory.mktemp("report") / "checkout") as root, pytest.MonkeyPatch.context() as patch:
        fixture.run(fixture.COST, fixture.rows(params=900.0))
        fixture.publish(fixture.COST)
        vae = [row for row in fixture.rows() if row.column == "psnr"]
        fixture.run(fixture.VAE, vae)
        fixture.publish(fixture.VAE)
        shutil.rmtree(default_run("quick", fixture.VAE))
        patch.setattr(provenance, "dirty", lambda: ["mdrepro/changed.py"])
        patch.setattr(api, "PACKAGE", toys.package(root / "toy"))
        fixture.run(fixture.COST, fixture.rows())
        fixture.sweep(fixture.COST, SIZES)
        built = build.build(root / "site", strict=True)
        assert built == root / "site" / "index.html"
        yield built.parent


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Page]:
    """Every page, by its place in the site."""
    return {path.relative_to(site).as_posix(): Page(path) for path in site.rglob("*.html")}


def _cell(site: Path, row: str, column: str, table: str = fixture.COST, slug: str = "quick") -> str:
    text = (site / f"tables/{table}.html").read_text(encoding="utf-8")
    found = re.search(rf'<td [^>]*id="{slug}-{row}-{column}">(.*?)</td>', text, re.DOTALL)
    assert found
    return found[1]


def test_every_kind_of_page_is_there(pages: dict[str, Page]) -> None:
    wanted = {"index.html", "search.html", "papers/mobilediffusion.html", f"notebooks/quick/{fixture.COST}.html"}
    wanted |= {f"tables/{name}.html" for name in (fixture.COST, fixture.VAE, fixture.UNRUN)}
    assert wanted <= set(pages)
    assert f"tables/{fixture.LATER}.html" not in pages


def test_a_sweep_has_a_page_with_the_mean_over_its_seeds(site: Path, pages: dict[str, Page]) -> None:
    page, values = pages[f"sweeps/{SWEEP}.html"], np.array(list(SIZES.values()))
    text = " ".join(page.text.split())
    assert f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" in text
    assert "4 runs, 1 of them without a result" in text
    assert "within noise" not in text, "no verdict"
    assert f"sweeps/{SWEEP}.html" in pages["index.html"].links
    assert f"../sweeps/{SWEEP}.html" in pages[COST_PAGE].links
    assert f"../files/sweeps/{SWEEP}/figure.png" in page.resources
    notebooks = [link for link in page.links if link.endswith(".ipynb")]
    assert notebooks == [f"../files/sweeps/{SWEEP}/{default_run('quick', fixture.COST).name}.ipynb"]


def test_a_sweep_by_two_parameters_has_a_mean_for_each_other_value(tmp_path: Path) -> None:
    runs = {f"{steps}-{seed}": {"seed": seed, "steps": steps, "tier": "quick"} for steps in (4, 8) for seed in (0, 1)}
    lines = [{"run": run, "row": "sd", "column": "params", "unit": "M", "value": str(i)} for i, run in enumerate(runs)]
    settings = [{name: str(value) for name, value in one.items()} for one in runs.values()]
    both = [line | one for line, one in zip(lines, settings, strict=True)]
    batch = sweeps.Sweep(fixture.paper().tables[0], "quick", tmp_path, ["seed", "steps"], runs, both)
    means = [(cell.settings, cell.runs, float(cell.mean)) for cell in batch.means()]
    assert means == [("steps=4", 2, 0.5), ("steps=8", 2, 2.5)]
    assert batch._replace(names=["steps"]).means() == []


def test_a_sweep_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with fixture.home(tmp_path / "checkout"):
        table = fixture.paper().tables[0]
        file = fixture.sweep(fixture.COST, SIZES) / "summary.csv"
        assert [one.missing for one in sweeps.read(table, "quick")] == [1]
        text = file.read_text(encoding="utf-8")
        for bad, why in (
            (text.replace("861.0", "x"), "line 3: value must"),
            (text.replace("seed", "s"), "no column seed"),
        ):
            file.write_text(bad, encoding="utf-8")
            with pytest.raises(BadInput, match=why):
                sweeps.read(table, "quick")


def test_every_underspecified_value_is_on_its_page(pages: dict[str, Page]) -> None:
    page, entries = pages["underspecified.html"], underspecified.register().entries
    mine = [entry for entry in entries if entry.paper == "mobilediffusion"]  # the fixture has one paper
    assert {entry.id for entry in mine} <= page.ids
    text = " ".join(page.text.split())
    for entry in mine:
        for words in (entry.missing, entry.choice, entry.evidence, entry.otherwise):
            assert " ".join(words.replace("`", "").split()) in text
        assert all(f"{other.change}: {other.params:.1f}M" in text for other in entry.alternatives)
    assert "underspecified.html" in pages["index.html"].links
    assert f"{len(entries)} entries" in text


def test_what_is_measured_at_no_tier_is_on_its_page(pages: dict[str, Page]) -> None:
    page = pages["unmeasured.html"]
    text = " ".join(page.text.split())
    mine = unmeasured.gaps(fixture.paper().tables[0])
    assert [gap.name for gap in mine] == ["psnr", "light"]
    assert {f"{fixture.COST}-{gap.name}" for gap in mine} <= page.ids
    assert all(part in text for gap in mine for part in (gap.title, gap.needs))
    assert "unmeasured.html" in pages["index.html"].links


def test_nothing_is_loaded_from_another_host(site: Path, pages: dict[str, Page]) -> None:
    styles = {path.name: path.read_text(encoding="utf-8") for path in site.rglob("*.css")}
    styles |= {name: "\n".join(page.inline) for name, page in pages.items()}
    asked = {name: page.resources for name, page in pages.items()}
    for name, text in styles.items():
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        asked.setdefault(name, []).extend(re.findall(r"url\(\s*['\"]?([^'\")]+)", text))
        asked[name] += re.findall(r"@import\s+['\"]([^'\"]+)", text)
    far = [(name, url) for name, urls in asked.items() for url in urls if url.startswith(("http:", "https:", "//"))]
    assert sum(map(len, asked.values())) > 20
    assert not far


def test_all_links_inside_the_site_lead_somewhere(site: Path, pages: dict[str, Page]) -> None:
    broken, seen = [], 0
    for name, page in pages.items():
        for link in page.links + page.resources:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            seen += 1
            path = (site / name).parent / unquote(parts.path) if parts.path else site / name
            target = path.resolve().relative_to(site.resolve()).as_posix() if path.exists() else None
            anchor = unquote(parts.fragment)
            if target is None or (anchor and target in pages and anchor not in pages[target].ids):
                broken.append(f"{name}: {link}")
    assert seen > 200
    assert not broken


def test_each_of_our_numbers_leads_to_its_run(site: Path) -> None:
    text = (site / COST_PAGE).read_text(encoding="utf-8")
    links = re.findall(r'<a class="md-ours" href="([^"]+)"', text)
    assert links == [f"../notebooks/quick/{fixture.COST}.html"] * 5
    assert '<a class="md-ours" href="#quick-published-provenance"' in _cell(
        site, "sd", "psnr", fixture.VAE, "quick-published"
    )


@pytest.mark.parametrize(("row", "tag"), [("lite", "recalled"), ("md", "inferred")])
def test_unconfirmed_figures_are_marked_and_never_reproduced(site: Path, row: str, tag: str) -> None:
    cell = _cell(site, row, "params")
    assert f">{tag}</span>" in cell
    assert "md-unconfirmed" in cell
    assert "md-reproduced" not in cell
    assert f">{tag}</span>" not in _cell(site, "sd", "params")
    ledger_page = (site / "papers/mobilediffusion.html").read_text(encoding="utf-8")
    assert f">{tag}</span>" in ledger_page


def test_cells_show_figures_intervals_verdicts_and_what_was_not_found(site: Path) -> None:
    assert "859.5" in _cell(site, "sd", "params")
    assert "md-reproduced" in _cell(site, "sd", "params")
    assert "not found" in _cell(site, "sd", "macs")
    assert "md-not-comparable" in _cell(site, "md", "macs")
    assert "[26.10, 27.40]" in _cell(site, "sd", "psnr")
    assert 'title="by seed: 26.50, 26.90">[26.10, 27.40]<' in _cell(site, "sd", "psnr")
    page = (site / COST_PAGE).read_text(encoding="utf-8")
    assert "<br>n = 24</span>" in page
    assert 'Stable Diffusion &lt;1.5&gt;<span class="md-column-meta">2 training seeds</span>' in page


def test_published_numbers_stand_beside_ours(site: Path, pages: dict[str, Page]) -> None:
    assert "does not agree" in _cell(site, "sd", "params")
    assert ">agrees<" in _cell(site, "md", "params")
    assert "1 of 5 numbers do not agree" in pages["index.html"].text
    assert "after it was recorded" not in pages["index.html"].text
    vae = " ".join(pages[f"tables/{fixture.VAE}.html"].text.split())
    assert f"Published; no local run: mdrepro reproduce {fixture.VAE} makes one" in vae


def test_reasons_for_what_was_not_attempted_are_shown(pages: dict[str, Page]) -> None:
    text = pages[COST_PAGE].text
    assert fixture.NOT_HERE in text
    assert fixture.HOSTILE_REASON.replace("`", "") in text
    assert "this notebook does not measure it" in text


def test_hostile_text_stays_text(pages: dict[str, Page]) -> None:
    page = pages[COST_PAGE]
    protocol = fixture.HOSTILE_PROTOCOL.replace("`", "")
    for text in (protocol, fixture.HOSTILE_NOTE, fixture.HOSTILE_TITLE, "toy <cpu>"):
        assert text in page.text
    for name, each in pages.items():
        assert not each.handlers, name
        assert "iframe" not in each.tags, name
        assert "x" not in each.resources, name


def test_claims_show_verdict_statement_and_numbers(pages: dict[str, Page]) -> None:
    for name in ("index.html", COST_PAGE):
        text = " ".join(pages[name].text.split())
        assert "MobileDiffusion is smaller than SD & <i>that is that</i>." in text
        assert "390 M against 860 M, less" in text
    assert "Parameters, MobileDiffusion against Stable Diffusion <1.5>: 390 M" in text


def test_a_run_from_a_dirty_commit_says_so(pages: dict[str, Page]) -> None:
    assert "Made from a dirty commit: 1 files differed from 012345678 (mdrepro/changed.py" in pages[COST_PAGE].text
    for name in ("index.html", COST_PAGE):
        assert "uncommitted changes" in pages[name].text
    assert "uncommitted changes" not in pages[f"tables/{fixture.VAE}.html"].text


def test_tables_without_a_run_and_planned_ones_are_honest(pages: dict[str, Page]) -> None:
    assert "Neither run nor published yet" in pages[f"tables/{fixture.UNRUN}.html"].text
    index = pages["index.html"].text
    assert "no notebook yet" in index[index.index("Planned") :]
    assert "not comparable" in index
    assert "reading.html" in pages["index.html"].links
    for meanings in (legend.VERDICTS, legend.CLAIM_VERDICTS, legend.TAGS):
        assert all(meaning in pages["reading.html"].text for meaning in meanings.values())


def test_no_path_of_this_machine_is_shown(site: Path) -> None:
    root = str(site.parent)
    for path in site.rglob("*"):
        if path.suffix in (".html", ".ipynb", ".js", ".json"):
            text = path.read_text(encoding="utf-8")
            assert root not in text, path.name
            assert sys.prefix not in text, path.name
            assert "mdrepro-report-" not in text, path.name
    notebook = (site / f"files/quick/{fixture.COST}/notebook.ipynb").read_text(encoding="utf-8")
    assert "$MDREPRO_ROOT/data" in notebook
    assert json.loads(notebook)["cells"]


def test_formulas_need_no_script(site: Path) -> None:
    text = (site / f"notebooks/quick/{fixture.COST}.html").read_text(encoding="utf-8")
    assert "<mfrac>" in text
    assert "<msqrt>" in text
    assert "mathjax" not in "".join(re.findall(r"<script[^>]*>", text)).lower()
    assert "\\unknown" in render("\\unknown{<x>}", block=True)
    assert "<x>" not in render("\\unknown{<x>}", block=True)


def test_cells_of_a_rendered_notebook_have_ids_of_their_own(tmp_path: Path) -> None:
    view: Any = SimpleNamespace(
        provenance={}, table=SimpleNamespace(id="cost", title="Cost"), slug="cost", tier="quick", short_commit="0"
    )
    cells = build._rendered(json.loads(json.dumps(fixture.executed(tmp_path))), view)["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells) > 3


def test_raw_files_are_copied_unchanged(site: Path) -> None:
    here, there = site / f"files/quick/{fixture.COST}", default_run("quick", fixture.COST)
    for name in ("result.json", "result.csv", "figures/cost.png", "figures/cost.svg"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
    published = site / f"files/quick-published/{fixture.VAE}"
    assert sorted(path.name for path in published.rglob("*.*")) == [
        "cost.png",
        "cost.svg",
        "result.csv",
        "result.json",
        "table.md",
        "table.tex",
    ]


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """An empty checkout in which Sphinx only writes an index and counts its calls."""
    calls: list[int] = []

    def sphinx(texts: dict[str, str], out: Path, **_: Any) -> None:
        calls.append(1)
        (out / "index.html").write_text(texts[f"tables/{fixture.COST}.rst"])

    with fixture.home(tmp_path / "checkout"):
        (tmp_path / "reference").mkdir()
        monkeypatch.setattr(build, "sphinx", sphinx)
        monkeypatch.setattr(api, "build", lambda strict: tmp_path / "reference")
        yield calls


def test_a_build_is_skipped_when_nothing_changed(counted: list[int]) -> None:
    fixture.run(fixture.COST, fixture.rows(), figure=False)
    assert build.stale() == ["there is no report yet"]
    index = build.build()
    before = index.stat().st_mtime_ns
    assert build.stale() == []
    assert build.build() == index
    assert (len(counted), index.stat().st_mtime_ns) == (1, before)


def test_a_build_happens_when_a_result_a_notebook_or_a_published_result_changes(counted: list[int]) -> None:
    folder = fixture.run(fixture.COST, fixture.rows(), figure=False)
    build.build()
    fixture.run(fixture.COST, fixture.rows(params=861.0), figure=False)
    where = relative(folder)
    assert f"result changed: {where}/result.json" in build.stale()
    build.build()
    with open(folder / "notebook.ipynb", "a", encoding="utf-8") as file:
        file.write("\n")
    assert build.stale() == [f"result changed: {where}/notebook.ipynb"]
    build.build()
    fixture.publish(fixture.COST)
    assert f"result new: results/quick/{fixture.COST}.json" in build.stale()
    build.build()
    assert build.stale(tier="quick") == ["tiers gone: paper", "tiers gone: proxy"]
    assert len(counted) == 4


def test_the_published_run_is_recognised(counted: list[int]) -> None:
    fixture.run(fixture.COST, fixture.rows())
    fixture.publish(fixture.COST)
    view = views.run_view(ledger.find(fixture.COST), "quick")
    assert view is not None
    assert view.is_published
    fixture.run(fixture.COST, fixture.rows(params=861.0))
    view = views.run_view(ledger.find(fixture.COST), "quick")
    assert view is not None
    assert not view.is_published


def test_a_failed_build_keeps_the_old_report(tmp_path: Path, counted: list[int], monkeypatch: Any) -> None:
    fixture.run(fixture.COST, fixture.rows(), figure=False)
    index = build.build()
    old = index.read_text()
    fixture.run(fixture.COST, fixture.rows(params=861.0), figure=False)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("sphinx broke")

    monkeypatch.setattr(build, "sphinx", broken)
    with pytest.raises(RuntimeError, match="sphinx broke"):
        build.build()
    assert index.read_text() == old
    assert sorted(path.name for path in index.parent.parent.iterdir()) == ["quick", "report"]


def test_a_folder_that_is_no_report_is_never_replaced(tmp_path: Path, counted: list[int]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(BadInput, match="is not a report"):
        build.build(tmp_path / "photos")
    with pytest.raises(BadInput, match="unknown tier"):
        build.build(tier="huge")
    assert (tmp_path / "photos" / "cat.png").read_bytes() == b"cat"
    assert not counted


def test_edited_results_are_refused_and_rejudged_ones_shown_as_such(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fixture.run(fixture.COST, fixture.rows(), figure=False)
    table = ledger.find(fixture.COST)
    clean = views.run_view(table, "quick")
    assert clean is not None
    assert clean.warnings == []
    result = results.read(folder / "result.json")
    result["rows"][0]["value"] = 700.0
    write_json(folder / "result.json", result)
    with pytest.raises(BadInput, match=r"result\.json: .* edited"):
        views.run_view(table, "quick")
    write_json(folder / "result.json", results.seal(result))
    edited = views.run_view(table, "quick")
    assert edited is not None
    assert "1 verdicts were recomputed" in edited.warnings[0]
    assert edited.cells["sd"]["params"].verdict == "differs"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (859.52, 4, "859.5"),
        (49.4902, 4, "49.49"),
        (2567.46, 4, "2,567"),
        (0, 4, "0"),
        (22.0, 4, "22"),
        (-0.00123456, 3, "−0.00123"),
        (1.5e-9, 3, "1.50e−09"),
        (123456789.0, 3, "123,456,789"),
    ],
)
def test_numbers_are_rounded_to_significant_digits(value: float, digits: int, text: str) -> None:
    assert views.number(value, digits) == text


def test_tolerances_are_written_out() -> None:
    assert views.tolerance(Tolerance(relative=0.0125)) == "±1.25 %"
    assert views.tolerance(Tolerance(absolute=0.5), "dB") == "±0.5 dB"
    assert views.tolerance(Tolerance(relative=1e-9)) == views.tolerance(Tolerance(absolute=0)) == "none, exact"


def test_protocols_share_their_clauses() -> None:
    notes = views.shared_clauses(["params; net a; config a", "macs; net a; config a", "params; net b", "", "alone"])
    assert notes["params; net a; config a"] == ("params", "net a; config a")
    assert notes["macs; net a; config a"] == ("macs", "net a; config a")
    assert notes["params; net b"] == ("params", "net b")
    assert notes["alone"] == ("alone",)


def test_the_legend_explains_every_verdict_and_tag() -> None:
    assert set(legend.VERDICTS) == set(Verdict)
    assert set(legend.CLAIM_VERDICTS) == set(ClaimVerdict)
    assert set(legend.GLYPHS) == set(Verdict) | set(ClaimVerdict)


def test_importing_the_report_is_cheap() -> None:
    code = (
        "import sys, mdrepro.reproduce.report.build; "
        "print([m for m in ('torch', 'sphinx', 'jinja2') if m in sys.modules])"
    )
    assert os.popen(f'"{sys.executable}" -c "{code}"').read().strip() == "[]"


@pytest.mark.slow
@pytest.mark.skipif(browser.executable() is None, reason="no browser: install chromium or google-chrome to run this")
@pytest.mark.parametrize("width", [1280, 420])
@pytest.mark.parametrize("dark", [False, True])
def test_pages_open_in_a_browser(site: Path, tmp_path: Path, width: int, dark: bool) -> None:
    from PIL import Image

    with browser.Browser() as page:
        for name in ("index", f"tables/{fixture.COST}", "papers/mobilediffusion", f"notebooks/quick/{fixture.COST}"):
            page.open((site / f"{name}.html").as_uri(), width=width, dark=dark)
            assert page.overflow() <= 0, name
            picture = Image.open(page.screenshot(tmp_path / "page.png", full=True)).convert("RGB")
            colours = picture.getcolors(1 << 24)
            assert picture.width == width
            assert colours is not None
            assert len(colours) > 50, name
            corner = picture.getpixel((width // 2, picture.height - 2))
            assert isinstance(corner, tuple)
            assert (corner[0] < 60) == dark, name
            assert page.evaluate("window.mdreproRan") is None, name
        assert page.errors == []
        assert [url for url in page.requests if not url.startswith(("file:", "data:"))] == []


@pytest.mark.slow
@pytest.mark.skipif(browser.executable() is None, reason="no browser: install chromium or google-chrome to run this")
def test_search_filter_and_enlarging_work_from_files(site: Path) -> None:
    with browser.Browser() as page:
        page.open((site / "search.html").as_uri() + "?q=Reconstruction")
        page.evaluate("new Promise(done => setTimeout(done, 1500))")
        assert page.evaluate("document.querySelectorAll('#search-results li a').length") > 0
        page.open((site / "papers/mobilediffusion.html").as_uri())
        visible = "[...document.querySelectorAll('[data-filter]')].filter(item => item.offsetParent).length"
        every = page.evaluate(visible)
        page.evaluate(
            "const i = document.querySelector('.md-filter'); i.value = 'recalled'; i.dispatchEvent(new Event('input'))"
        )
        assert 0 < page.evaluate(visible) < every
        page.open((site / COST_PAGE).as_uri())
        page.evaluate("document.querySelector('a.md-zoom').click()")
        assert page.evaluate("document.querySelector('dialog[open] img') !== null")
        assert page.errors == []
