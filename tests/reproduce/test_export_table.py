"""Tables as LaTeX, Markdown and CSV, against pandas' LaTeX and the parser of the report's Markdown."""

import csv
import io
import itertools
import re

import pandas as pd
import pytest
from markdown_it import MarkdownIt

from mdrepro.cli.app import main
from mdrepro.core.errors import BadInput
from mdrepro.papers import ledger
from mdrepro.reproduce import export_table
from mdrepro.reproduce.workflow import results
from tests.support.checkout import REPOSITORY

NAMES = sorted(path.stem for path in (REPOSITORY / "results" / "quick").glob("*.json"))
SPECIAL = [["", "a_b & c (%)"], ["row $1 {x} #2", "1~2^3"], [r"back\slash", "− ±"]]


def published(name: str) -> results.Result:
    result = results.published_result("quick", name)
    assert result is not None
    return result


@pytest.mark.parametrize("name", NAMES)
def test_each_measured_number_and_paper_figure_is_in_the_grid_once(name: str) -> None:
    table, result = ledger.find(name), published(name)
    head, *lines = export_table.grid(table, result)
    measured = [row for row in result["rows"] if row["value"] is not None]
    titles = [column.title for column in table.columns.values()]
    own = [index for index, text in enumerate(head) if any(text.startswith(title) for title in titles)]
    shown = [line[index] for line in lines for index in own if line[index] not in ("", "–")]
    assert len(shown) == len(measured)
    assert [len(line) for line in lines] == [len(head)] * len({row["row"] for row in measured})
    intervals = [text for text in shown if re.search(r" \[.+, .+\]$", text)]
    assert len(intervals) == sum(row["ci_low"] is not None for row in measured)


def test_latex_is_escaped_and_ruled_as_by_pandas() -> None:
    frame = pd.DataFrame(SPECIAL[1:], columns=SPECIAL[0])
    theirs = frame.to_latex(index=False, escape=True, column_format="lr").split("\n")
    ours = export_table._latex(SPECIAL, "t").split("\n")
    symbols = [line.replace("−", "$-$").replace("±", r"$\pm$") for line in theirs]
    words = [re.sub(r"\\textbackslash |\\textbackslash\{\}", r"\\textbackslash{}", line) for line in symbols]
    plain = [re.sub(r"\\textasciitilde |\\textasciicircum ", lambda m: m[0].strip() + "{}", line) for line in words]
    inside = ours[ours.index(r"\begin{tabular}{lr}") : ours.index(r"\end{tabular}") + 1]
    assert inside == [line for line in plain if line]


@pytest.mark.parametrize("name", NAMES)
def test_markdown_is_read_back_cell_by_cell(name: str) -> None:
    table, result = ledger.find(name), published(name)
    text = export_table.export(table, result, "markdown")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    pairs = itertools.pairwise(tokens)
    cells = [after.content for token, after in pairs if token.type in ("th_open", "td_open")]
    assert cells == [cell.strip() for line in export_table.grid(table, result) for cell in line]
    right = [token for token in tokens if token.type == "th_open" and token.attrGet("style") == "text-align:right"]
    assert len(right) == len(export_table.grid(table, result)[0]) - 1


def test_csv_has_every_recorded_cell() -> None:
    result = published(NAMES[0])
    read = list(csv.DictReader(io.StringIO(export_table.export(ledger.find(NAMES[0]), result, "csv"))))
    assert [(row["row"], row["column"]) for row in read] == [(row["row"], row["column"]) for row in result["rows"]]
    assert [float(row["value"]) for row in read if row["value"]] == [
        row["value"] for row in result["rows"] if row["value"] is not None
    ]


def test_the_command_prints_a_table_and_names_its_formats(capsys: pytest.CaptureFixture[str]) -> None:
    name = "mobilediffusion-unet-cost"
    for form, code in (("latex", 0), ("html", 2)):
        with pytest.raises(SystemExit) as end:
            main(["export-table", name, "--format", form])
        assert end.value.code == code
        shown = capsys.readouterr()
        if not code:
            table = ledger.find(name)
            assert shown.out == export_table.export(table, export_table.find(table, "quick"), form)
    assert "allowed: latex, markdown, csv" in shown.err
    with pytest.raises(BadInput, match="mdrepro reproduce snapfusion-evolution --tier paper"):
        export_table.find(ledger.find("snapfusion-evolution"), "paper")
