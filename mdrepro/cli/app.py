"""The ``mdrepro`` command. Every command is a thin call into the package; heavy packages are imported where used."""

import io
import sys
from collections.abc import Sequence

import typer

from mdrepro.cli import audit, cost, evaluate, export, latency, tables, training
from mdrepro.core.errors import BadInput, NotAttempted

app = typer.Typer(
    name="mdrepro",
    help="MobileDiffusion and SnapFusion, reproduced: every table beside the papers' own numbers.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("list")(tables.list_tables)
app.command("show")(tables.show)
app.command("reproduce")(tables.reproduce)
app.command("report")(tables.build_report)
app.command("publish")(tables.publish)
app.command("verify")(tables.verify)
app.command("doctor")(tables.doctor)
app.command("cost")(cost.cost)
app.command("train")(training.train)
app.command("generate")(training.generate)
app.command("export")(export.export)
app.command("latency")(latency.latency)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(audit.app, name="audit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: bad input ends with one message and exit code 2, never with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(args=list(arguments) if arguments is not None else None)
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except NotAttempted as error:
        print(f"not attempted: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
