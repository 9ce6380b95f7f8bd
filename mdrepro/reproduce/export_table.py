"""One table's numbers beside the paper's, as LaTeX (booktabs), Markdown or CSV."""

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Literal, get_args

from mdrepro.core.errors import BadInput, check
from mdrepro.papers.schema import Table, Tier
from mdrepro.reproduce import formatting
from mdrepro.reproduce.workflow import results

Format = Literal["latex", "markdown", "csv"]
ENDINGS: dict[Format, str] = {"latex": "tex", "markdown": "md", "csv": "csv"}
TEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\le$", "≥": r"$\ge$", "–": "--", "…": r"\ldots{}"},
}
Grid = list[list[str]]


def find(table: Table, tier: Tier) -> results.Result:
    """This machine's result of a table, else the published one. Raises BadInput where there is neither."""
    result = results.run_result(tier, table.id) or results.published_result(tier, table.id)
    if result is None:
        raise BadInput(f"{table.id} has no result at tier {tier}: run mdrepro reproduce {table.id} --tier {tier}")
    return result


def export(table: Table, result: results.Result, form: str) -> str:
    """The measured cells of a result as text of a form. Raises BadInput for another form."""
    check("format", form, get_args(Format))
    if form == "csv":
        return results.csv_text(result["rows"])
    return (_latex if form == "latex" else _markdown)(grid(table, result), _title(table, result))


def grid(table: Table, result: results.Result) -> Grid:
    """Header and lines: a line for each row with a number, a column for each that was measured, beside the paper's."""
    known = {(row["row"], row["column"]): row for row in result["rows"]}
    measured = {key for key, row in known.items() if row["value"] is not None}
    rows = [row for row in table.rows if any(key[0] == row for key in measured)]
    head, columns = [""], []
    for name, column in table.columns.items():
        if any(key[1] == name for key in measured):
            printed = [formatting.paper(table, known[row, name]) if (row, name) in known else "" for row in rows]
            columns.append([_ours(table, known.get((row, name))) for row in rows])
            head.append(column.title + (f" ({column.unit})" if column.unit else ""))
            if set(printed) - {"", formatting.NONE}:
                columns.append(printed)
                head.append("paper")
    titles = [formatting.row_titles(table)[row] for row in rows]
    return [head, *(list(line) for line in zip_longest(titles, *columns, fillvalue=""))]


def _ours(table: Table, row: dict[str, Any] | None) -> str:
    return " ".join(filter(None, formatting.measured_cell(table, row)[:2])) if row else ""


def _title(table: Table, result: results.Result) -> str:
    commit = str(result["provenance"].get("commit") or "no commit")[:9]
    return f"{table.title}. Tier {result['tier']}, commit {commit}; 95 % intervals in brackets."


def _latex(lines: Grid, title: str) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(escape, cells)) + r" \\"

    body = [line(cells) for cells in lines[1:]]
    opening = [r"% \usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{escape(title)}}}"]
    rules = [rf"\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}", r"\toprule", line(lines[0]), r"\midrule"]
    return "\n".join([*opening, *rules, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escape(text: str) -> str:
    """A text for LaTeX, with nothing in it that would be read as a command."""
    return "".join(TEX.get(mark, mark) for mark in text)


def _markdown(lines: Grid, title: str) -> str:
    cells = [[cell.replace("|", r"\|") for cell in line] for line in lines]
    rule = ["---", *["---:"] * (len(cells[0]) - 1)]
    return "\n".join([*(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:])), "", title, ""])
