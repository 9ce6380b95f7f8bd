"""Pages of the published results: what folds and scrolls, what a figure says, in HTML and in a browser."""

import html
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mdrepro.core import console
from mdrepro.core.files import replacing_folder
from mdrepro.papers import ledger
from mdrepro.reproduce.report import api, build, render, views
from mdrepro.reproduce.report.captions import caption
from tests.support import browser
from tests.support.checkout import REPOSITORY

NAMES = sorted(path.stem for path in (REPOSITORY / "results" / "quick").glob("*.json"))
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*/*.ipynb"))
BROWSER = pytest.mark.skipif(browser.executable() is None, reason="no browser: install chromium or google-chrome")


@pytest.fixture(scope="module")
def fragments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """HTML of each page, without Sphinx around it, of this checkout's quick tier, by page."""
    texts = build._Sources(tmp_path_factory.mktemp("site"), ("quick",)).texts
    pages: dict[str, str] = {}
    for name, text in texts.items():
        if name.startswith("fragments/"):
            page = name.removeprefix("fragments/").rpartition("-")[0]
            pages[page] = pages.get(page, "") + text
    return pages


def view(name: str) -> views.RunView:
    found = views.run_view(ledger.find(name), "quick")
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_what_was_measured_comes_first_and_empty_columns_and_rows_are_away(name: str) -> None:
    one = view(name)
    shown: set[tuple[str, str]] = set()
    for block in one.blocks:
        lines = [[one.cells[row][column].value for column in block.columns] for row in block.rows]
        assert all(map(any, lines))
        assert all(map(any, zip(*lines, strict=True)))
        shown |= {(row, column) for row in block.rows for column in block.columns}
    measured = {(row["row"], row["column"]) for row in one.result["rows"] if row["value"] is not None}
    assert measured <= shown
    left = {(row, column) for row, column, _ in one.unmeasured}
    printed = {(cell.row, cell.column) for cell in one.table.cells}
    assert not left & shown
    assert measured | printed <= left | shown


def test_wide_tables_are_folded_by_kind_of_row_and_by_comparison() -> None:
    steps, *compared = view("mobilediffusion-steps").blocks
    derived = {name for name, column in ledger.find("mobilediffusion-steps").columns.items() if column.derived}
    assert not derived & set(steps.columns)
    assert all(set(block.columns) <= derived for block in compared)
    known = {(row["row"], row["column"]): row for row in view("mobilediffusion-steps").result["rows"]}
    assert steps.counted["clip_shapes"] == f"n = {known['50', 'clip_shapes']['n']}"
    assert [steps.counted[row].partition(" ")[0] for row in ("50", "1-ddim", "real")] == [
        str(known[row, "clip_shapes"]["seeds"] or "") for row in ("50", "1-ddim", "real")
    ]
    unets, decoders, *_ = view("mobilediffusion-unet-cost").blocks
    assert "conv_blocks" in unets.columns
    assert "conv_blocks" not in decoders.columns
    assert {"sd-decoder", "text-encoder"} <= set(decoders.rows)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_recorded_figure_has_a_caption_of_its_own(notebook: Path) -> None:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    recorded = re.findall(r'"(\w+)": \w+', "".join(build.FIGURES.findall(code)))
    table = ledger.find(f"{notebook.parent.name}-{notebook.stem.replace('_', '-')}")
    unknown = caption(table, "never drawn")
    assert recorded or "figures=" not in code
    for stem in recorded:
        words = caption(table, stem)
        assert table.title not in words.text
        assert 40 < len(words.text) < 260 > len(words.alternative) > 40
        assert words.text != words.alternative != unknown.alternative


def test_figures_have_caption_and_alternative_text(fragments: dict[str, str]) -> None:
    text = "".join(fragments.values())
    images = re.findall(r'<img [^>]*alt="([^"]+)"', text)
    captions = re.findall(r"<figcaption>([^<]+)</figcaption>", text)
    assert len(images) == len(captions) == text.count("<img") == text.count("<figure") > 5


def test_no_page_has_raw_markup_or_python_in_it(fragments: dict[str, str]) -> None:
    for name, text in fragments.items():
        plain = html.unescape(re.sub(r"<[^>]+>", "", text))
        assert "`" not in plain, name
        assert not re.search(r"\{'|\['|\{\"|\[\"", plain), name


def test_long_pages_begin_with_their_contents(fragments: dict[str, str]) -> None:
    for name in [f"tables-{name}" for name in NAMES] + ["papers-mobilediffusion", "audit", "index"]:
        entries = re.findall(r'<nav class="md-contents".*?</nav>', fragments[name], re.DOTALL)
        assert len(entries) == 1, name
        assert entries[0].count("<a href=") > 2


def test_markup_between_backticks_is_code_and_values_are_words() -> None:
    assert render.prose("run `a < b` & ``c``") == "run <code>a &lt; b</code> &amp; <code>c</code>"
    values = [["all"], True, None, 2.5, ["a", "b"]]
    assert list(map(render.plain, values)) == ["all", "yes", "none", "2.5", "a, b"]


def test_how_to_cite_is_what_the_citation_file_says() -> None:
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    text = render.bibtex(citation)
    assert text.count("@") == 1 + len(citation["references"])
    assert "author = {Zhao, Y. and Xu, Y. and Xiao, Z. and Jia, H. and Hou, T.}" in text
    assert "author = {{Snap Inc.}}" in text
    assert all(reference["url"] in text for reference in citation["references"])
    assert text.count("{") == text.count("}")


def test_the_build_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stand-in that prints as Sphinx does; each read is a line of progress where none is held back."""
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    stages = ["reading sources... [ 50%] a", "reading sources... [100%] b", "writing output... [ 40%] a"]
    loop = f"for line in {stages}:\n print(line)\n time.sleep(0.2)\n"
    script = f"import sys, time\n{loop}print('bad', file=sys.stderr)\nsys.exit(3)"
    assert render._run([sys.executable, "-c", script], tmp_path, tmp_path / "warnings", "report") == (3, "bad\n")
    done = [int(share) for share in re.findall(r"report: (\d+) of 100", capsys.readouterr().err)]
    assert [share for share in dict.fromkeys(done) if share] == [25, 50, 70]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The report of this checkout's quick tier, without the API reference."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("site") / "report"
        (folder.parent / "api").mkdir()
        patch.setattr(api, "build", lambda _: folder.parent / "api")
        with replacing_folder(folder.parent / "api") as empty:
            (empty / "index.html").write_text("<title>API</title>")
        yield build.build(folder, tier="quick").parent


@BROWSER
@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1280])
def test_nothing_is_wider_than_its_page_without_a_sign(site: Path, width: int) -> None:
    broken = """[...document.querySelectorAll(".md-inequality")].filter((one) => one.offsetParent)
        .filter((one) => one.getClientRects().length > 1 || one.getBoundingClientRect().height > 30
            || one.getBoundingClientRect().right > innerWidth).map((one) => one.textContent)"""
    hidden = """[...document.querySelectorAll(".md-scroll")].filter((one) => one.offsetParent)
        .filter((one) => one.scrollWidth > one.clientWidth + 1)
        .filter((one) => !one.previousElementSibling?.matches(".md-scroll-sign"))
        .map((one) => one.ariaLabel)"""
    figures = """[...document.querySelectorAll("article img")]
        .filter((one) => !one.alt.includes(" ")
            || !one.closest("figure")?.querySelector("figcaption")?.textContent.trim())
        .map((one) => one.src)"""
    opened = "document.querySelectorAll('details').forEach((one) => { one.open = true })"
    seen = 0
    with browser.Browser() as page:
        for path in sorted(site.rglob("*.html")):
            name = path.relative_to(site).as_posix()
            if name.startswith(("api/", "genindex", "search")):
                continue
            page.open(path.as_uri(), width=width)
            page.evaluate(opened)
            page.evaluate("new Promise(done => setTimeout(done, 200))")
            assert page.overflow() <= 0, name
            for what in (broken, hidden, figures):
                assert page.evaluate(what) == [], name
            seen += page.evaluate("document.querySelectorAll('.md-inequality').length")
        assert page.errors == []
    assert seen > 50
