"""What is measured at no tier: rows and columns of the papers' tables, and statements that no claim tests, with what
each needs. It follows from the papers' data alone; docs/unmeasured.md and a page of the report show it.
"""

from dataclasses import dataclass

from mdrepro.papers import ledger
from mdrepro.papers.schema import Table

HEAD = """# What is measured at no tier

Rows and columns of the papers' tables, and statements of theirs that no claim tests, with what each needs. All of it
stands in `mdrepro/papers/*.yaml`; `mdrepro audit unmeasured > docs/unmeasured.md` writes this page. What whole tables
need at tiers at which they do not run yet stands there under `not_at`.
"""


@dataclass(frozen=True)
class Gap:
    """One row, group of rows or column of a table (``name``), or a statement: what it needs, and claims that wait."""

    name: str
    title: str
    needs: str
    claims: tuple[str, ...] = ()


def gaps(table: Table) -> list[Gap]:
    """All gaps of a table: rows and columns first, statements after them."""
    found = []
    for name, needs in table.needs.items():
        rows = table.needing(name)
        title = table.rows[rows[0]] if len(rows) == 1 else f"{len(rows)} rows" if rows else table.columns[name].title
        keys = {claim.id: [cell.split("/") for cell in claim.cells()] for claim in table.claims}
        waiting = [one for one, cells in keys.items() if any(row in rows or column == name for row, column in cells)]
        found.append(Gap(name, title, needs, tuple(waiting)))
    statements = (
        Gap(one.id, f"{one.statement} ({one.source}; {one.confidence})", one.needs) for one in table.unmeasured
    )
    return [*found, *statements]


def markdown() -> str:
    """All gaps of both papers: the text of docs/unmeasured.md."""
    parts = [HEAD]
    for table in ledger.tables(planned=True).values():
        if mine := gaps(table):
            parts.append(f"## {table.title}\n\n" + "".join(map(_item, mine)))
    return "\n".join(parts)


def _item(gap: Gap) -> str:
    waiting = f" Claims that wait for it: {', '.join(gap.claims)}." if gap.claims else ""
    return f"- **{gap.title}** (`{gap.name}`) needs {gap.needs}.{waiting}\n"
