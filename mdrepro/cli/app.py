"""The ``mdrepro`` command. Every command is a thin call into the package; heavy packages are imported where used."""

import io
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from mdrepro.cli import audit, cost, evaluate, export, export_table, latency, models, tables, training
from mdrepro.core import faults
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
app.command("runs")(tables.list_runs)
app.command("reproduce")(tables.reproduce)
app.command("report")(tables.build_report)
app.command("export-table")(export_table.export_table)
app.command("publish")(tables.publish)
app.command("verify")(tables.verify)
app.command("doctor")(tables.doctor)
app.command("cost")(cost.cost)
app.command("train")(training.train)
app.command("generate")(training.generate)
app.command("export")(export.export)
app.command("publish-model")(models.publish_model)
app.command("latency")(latency.latency)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(audit.app, name="audit")


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; after any command.")] = False,
) -> None:
    """The callback only declares ``--debug`` for the help: `main` takes it out of the arguments before."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: what the user can mend ends with one message and exit code 2, never with a traceback.

    Such are bad input, and errors of disks, memory and damaged files, which `mdrepro.core.faults` explains; these end
    ``verify`` with code 1. Ctrl-C ends with 130. ``--debug``, anywhere, shows the traceback too.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    kept = [
        word for index, word in enumerate(given) if word != "--debug" or given[index - 1 : index] == ["--snakemake"]
    ]
    try:
        app(args=kept)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except NotAttempted as error:
        _say(f"not attempted: {error}", error, debug=kept != given)
        sys.exit(1)
    except Exception as error:
        line = str(error) if isinstance(error, BadInput) else faults.explain(error)
        if line is None:
            raise
        if isinstance(error, BadInput) and (cause := faults.in_text(line)):
            line = f"{cause} ({line.partition(chr(10))[0].rstrip(':')})"
        _say(f"error: {line}", error, debug=kept != given)
        sys.exit(1 if kept[:1] == ["verify"] and not isinstance(error, BadInput) else 2)


def _say(line: str, error: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print(line, file=sys.stderr)
