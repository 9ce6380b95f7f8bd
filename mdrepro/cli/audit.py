"""``mdrepro audit``: whether the project's own tests of the papers' claims can hold and can fail."""

import typer

from mdrepro.cli.options import Json, print_json

app = typer.Typer(name="audit", help="Audit how this project judges the papers.", no_args_is_help=True)


@app.callback()
def _audits() -> None:
    """A group, so that its one command keeps its name."""


@app.command()
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
