"""``mdrepro export-table``: one table as text for a paper."""

from typing import Annotated

import typer

from mdrepro.cli.options import Table, TextFormat, TierOption


def export_table(
    table: Table,
    form: Annotated[TextFormat, typer.Option("--format", help="LaTeX needs the package booktabs.")] = "markdown",
    tier: TierOption = "quick",
) -> None:
    """Print one table's measured numbers beside the paper's, to be pasted into a text."""
    from mdrepro.papers import ledger
    from mdrepro.reproduce import export_table as tables

    spec = ledger.find(table)
    print(tables.export(spec, tables.find(spec, ledger.check_tier(tier)), form), end="")
