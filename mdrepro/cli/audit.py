"""``mdrepro audit``: whether the project's own tests of the papers' claims can hold and can fail."""

import typer

from mdrepro.cli.commands import register
from mdrepro.cli.options import Json, print_json

app = typer.Typer(
    name="audit", help="Audit how this project judges the papers, and what it leaves out.", no_args_is_help=True
)


def claims(as_json: Json = False) -> None:
    """Judge every claim in four worlds: the paper's, equal networks, the effect reversed, the sentence untrue."""
    from mdrepro.core.console import GREEN, NONE, RED, columns, paragraph, styled
    from mdrepro.reproduce import audit

    audits = audit.audit()
    wrong = [one for one in audits if one.faults]
    if as_json:
        print_json([one.plain() for one in audits])
    else:
        lines: list[tuple[str, ...]] = [("claim", "kind", *audit.WORLDS, "")]
        for one in audits:
            seen = (one.verdicts.get(world, NONE) for world in audit.WORLDS)
            lines.append((one.claim.id, one.claim.kind, *map(str, seen), "FAILED" if one.faults else "ok"))
        print(columns(lines, indent=""))
        for one in audits:
            if one.claim.contradicted:
                print(paragraph(f"{one.claim.id}: the paper contradicts itself: {one.claim.contradicted}"))
            for fault in one.faults:
                print(paragraph(f"{one.claim.id} ({one.table}): {fault}"))
        examples = f"the paper's world of {sum(one.examples_only for one in audits)} holds examples alone"
        passed = f"{len(audits) - len(wrong)} of {len(audits)} claims pass"
        print(styled(passed, RED if wrong else GREEN) + f"; {examples}")
    raise typer.Exit(1 if wrong else 0)


def unmeasured(as_json: Json = False) -> None:
    """Print as Markdown what is measured at no tier, and what each row, column and statement needs."""
    from dataclasses import asdict

    from mdrepro.papers import ledger
    from mdrepro.papers.unmeasured import gaps, markdown

    if as_json:
        tables = ledger.tables(planned=True).values()
        print_json([{"table": table.id} | asdict(gap) for table in tables for gap in gaps(table)])
    else:
        print(markdown(), end="")


for name, function in {"claims": claims, "unmeasured": unmeasured}.items():
    register(app, name, function, "audit")
