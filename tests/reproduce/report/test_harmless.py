"""What an executed notebook printed neither runs nor loads anything in the report, and tables keep their look."""

import base64
import copy
import io
import re
from html.parser import HTMLParser
from typing import Any

import pytest

from mdrepro.reproduce.report.harmless import KEPT, clean, harmless
from mdrepro.reproduce.report.mathml import render
from tests.support import hostile_outputs as hostile

LOADING = ("src", "srcset", "poster", "data", "action", "formaction", "background", "srcdoc", "xlink:href", "values")
RUNNING = (
    "script style iframe object embed link meta base form button body animate set foreignobject image video template"
)


class Parsed(HTMLParser):
    """Tags, attributes and text by the standard library's parser, which shares nothing with the cleaner's."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.given: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(markup)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.given += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def _faults(markup: str) -> list[str]:
    """What in a page would run, or be loaded from anywhere but the page."""
    page = Parsed(markup)
    found = [tag for tag in page.tags if tag in RUNNING.split()]
    for tag, name, value in page.given:
        target = re.sub(r"\s", "", value.lower())
        if name.startswith("on") or "javascript:" in target:
            found.append(f"{tag} {name}={value}")
        if name in LOADING and not target.startswith(("data:image/png;base64,", "#")):
            found.append(f"{tag} {name}={value}")
        if "url(" in target.replace("url(#", "") or "image-set(" in target or "@import" in target:
            found.append(f"{tag} {name}={value}")
    return found


def _output(data: dict[str, Any]) -> dict[str, Any]:
    notebook = {"cells": [{"cell_type": "code", "outputs": [{"output_type": "display_data", "data": data}]}]}
    return dict(harmless(notebook)["cells"][0]["outputs"][0]["data"])


@pytest.mark.parametrize("name", hostile.BUNDLES)
def test_nothing_runs_and_nothing_is_loaded(name: str) -> None:
    bundle = copy.deepcopy(hostile.BUNDLES[name])
    data = _output(bundle)
    assert data
    assert set(data) <= {"text/html", *KEPT}
    assert _faults(data.get("text/html", "")) == []
    assert data.get("text/plain", "") in (
        bundle.get("text/plain"),
        "",
        f"[left out of the report: {', '.join(sorted(bundle))}]",
    )
    if "text/latex" in data:
        assert _faults(render(data["text/latex"], block=True)) == []


@pytest.mark.parametrize("printed", [hostile.HTML, hostile.SVG])
def test_the_check_itself_sees_what_was_printed(printed: str) -> None:
    assert len(_faults(printed)) > 8


def test_a_table_of_pandas_keeps_its_look() -> None:
    import pandas

    printed = pandas.DataFrame({"row": ["sd <1.5>", "md & lite"], "params": [860.1, 386.0]})._repr_html_()
    before, after = Parsed(printed), Parsed(_output({"text/html": printed})["text/html"])
    assert [tag for tag in before.tags if tag != "style"] == after.tags
    assert ("table", "border", "1") in after.given
    assert ("table", "class", "dataframe") in after.given
    assert any(name == "style" and "right" in value for _, name, value in after.given)
    assert "sd <1.5>" in after.text
    assert "md & lite" in after.text


def test_a_figure_of_matplotlib_keeps_its_shapes_and_colours() -> None:
    from matplotlib.figure import Figure

    figure, file = Figure(), io.StringIO()
    figure.subplots().plot([1, 2], color="#12ab34", label="one")
    figure.savefig(file, format="svg")
    before = Parsed(file.getvalue())
    after = Parsed(_output({"image/svg+xml": file.getvalue()})["text/html"])
    for tag in ("path", "use", "g", "clippath", "rect"):
        assert after.tags.count(tag) == before.tags.count(tag), tag
    kept = ("d", "xlink:href", "transform", "clip-path", "id", "viewbox")
    assert [one for one in before.given if one[1] in kept and one[0] in after.tags] == [
        one for one in after.given if one[1] in kept
    ]
    assert any("#12ab34" in value for _, _, value in after.given)


def test_pictures_inside_html_stay_and_links_wait_for_a_click() -> None:
    picture = "data:image/png;base64," + base64.b64encode(b"\x89PNG").decode()
    page = Parsed(
        clean(f'<img src="{picture}" alt="a"><a href="https://example.org/paper">paper</a><a href="#part">part</a>')
    )
    assert ("img", "src", picture) in page.given
    assert ("a", "href", "https://example.org/paper") in page.given
    assert ("a", "href", "#part") in page.given


def test_of_html_that_only_a_script_would_fill_the_picture_beside_it_is_shown() -> None:
    data = _output({"text/html": "<div id='plot'></div><script>draw()</script>", "image/png": "iVBORw0KGgo="})
    assert data == {"image/png": "iVBORw0KGgo="}


def test_markdown_is_shown_as_it_was_printed() -> None:
    page = Parsed(_output({"text/markdown": "## Head\n\n| a | b |\n| - | - |\n| 1 | `<x>` |\n"})["text/html"])
    assert [tag for tag in page.tags if tag in ("h2", "table", "th", "td", "code")] == [
        "h2",
        "table",
        "th",
        "th",
        "td",
        "td",
        "code",
    ]
    assert "<x>" in page.text
