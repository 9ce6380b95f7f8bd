"""``mdrepro audit``: whether tests of the papers' claims can hold and can fail; what half precision spoils."""

from collections.abc import Callable
from typing import Annotated

import typer

from mdrepro.cli.commands import register
from mdrepro.cli.export import check_model
from mdrepro.cli.options import Components, Json, Resolution, model_names, print_json

app = typer.Typer(
    name="audit",
    help="Audit how this project judges the papers, what it leaves out, and what half precision spoils.",
    no_args_is_help=True,
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


def fp16(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", autocompletion=model_names, help="As of mdrepro export: a system, a recipe, or a folder."
        ),
    ],
    component: Components = None,
    resolution: Resolution = None,
    as_json: Json = False,
) -> None:
    """Name the layers that overflow or lose 20 dB in emulated half precision."""
    check_model(model)
    from mdrepro.core.console import columns
    from mdrepro.export import commands

    report = commands.audit(model, wanted=[each.value for each in component or ()], resolution=resolution)
    if as_json:
        print_json(report)
        return
    for entry in report:
        mended = f"with a group norm that squares nothing above its mean magnitude: {_decibels(entry['mended_db'])}"
        print(f"{entry['component']}, PSNR against float32: {_decibels(entry['psnr_db'])}; {mended}")
        lines = [("layer", "kind", "overflows in", "loses dB", "largest output")]
        lines += [
            (one["layer"], one["kind"], one["operation"] or "–", _decibels(one["lost_db"], ""), f"{one['largest']:.4g}")
            for one in entry["findings"]
        ]
        print(columns(lines) if entry["findings"] else "  no layer overflows or loses 20 dB")


def _decibels(value: float | None, unit: str = " dB") -> str:
    return "not finite" if value is None else f"{value:.1f}{unit}"


COMMANDS: dict[str, Callable[..., None]] = {"claims": claims, "unmeasured": unmeasured, "fp16": fp16}
for name, function in COMMANDS.items():
    register(app, name, function, "audit")
