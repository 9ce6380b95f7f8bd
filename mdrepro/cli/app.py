"""The ``mdrepro`` command. Every command is a thin call into the package; heavy packages are imported where used."""

import io
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Annotated

import typer

from mdrepro import __version__
from mdrepro.cli import audit, cost, evaluate, export, export_table, init, latency, models, tables, training
from mdrepro.cli.commands import Group, register
from mdrepro.core import console, faults
from mdrepro.core.errors import BadInput, NotAttempted

app = typer.Typer(
    name="mdrepro",
    cls=Group,
    help="MobileDiffusion and SnapFusion, reproduced: every table beside the papers' own numbers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
COMMANDS: dict[str, Callable[..., None]] = {
    "list": tables.list_tables,
    "show": tables.show,
    "runs": tables.list_runs,
    "reproduce": tables.reproduce,
    "report": tables.build_report,
    "export-table": export_table.export_table,
    "publish": tables.publish,
    "verify": tables.verify,
    "doctor": tables.doctor,
    "cost": cost.cost,
    "train": training.train,
    "generate": training.generate,
    "export": export.export,
    "publish-model": models.publish_model,
    "latency": latency.latency,
    "init": init.init,
}
for name, function in COMMANDS.items():
    register(app, name, function)
app.add_typer(evaluate.app, name="evaluate", cls=Group, short_help=evaluate.app.info.help)
app.add_typer(audit.app, name="audit", cls=Group, short_help=audit.app.info.help)
ANYWHERE = ("--debug", "--quiet")


def _version(given: bool) -> None:
    if given:
        print(f"mdrepro {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; after any command.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Results and errors alone, no progress; after any command.")
    ] = False,
) -> None:
    """The callback only declares ``--debug`` and ``--quiet``: `main` takes them out of the arguments before."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: what the user can mend ends with one message and exit code 2, never with a traceback.

    Such are bad input, and errors of disks, memory and damaged files, which `mdrepro.core.faults` explains; these end
    ``verify`` with code 1. Ctrl-C ends with 130. ``--debug``, anywhere, shows the traceback too; ``--quiet``, anywhere,
    leaves progress out, of the processes that are started as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    kept = [
        word for index, word in enumerate(given) if word not in ANYWHERE or given[index - 1 : index] == ["--snakemake"]
    ]
    debug = given.count("--debug") > kept.count("--debug")
    try:
        with console.quietly() if given.count("--quiet") > kept.count("--quiet") else nullcontext():
            app(args=kept, prog_name="mdrepro")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except NotAttempted as error:
        _say(f"not attempted: {error}", error, debug=debug)
        sys.exit(1)
    except Exception as error:
        line = str(error) if isinstance(error, BadInput) else faults.explain(error)
        if line is None:
            raise
        if isinstance(error, BadInput) and (cause := faults.in_text(line)):
            line = f"{cause} ({line.partition(chr(10))[0].rstrip(':')})"
        _say(f"error: {line}", error, debug=debug)
        sys.exit(1 if kept[:1] == ["verify"] and not isinstance(error, BadInput) else 2)


def _say(line: str, error: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print(line, file=sys.stderr)
