"""How commands are registered: whole summaries, examples in the help, and one kind of message for unknown words."""

import inspect
import io
import re
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from mdrepro.cli.examples import EXAMPLES
from mdrepro.core import console, distributed
from mdrepro.core.errors import unknown

TIMED = ("latency", "reproduce", "train")  # they show their own progress
SHARED = ("train", "generate")  # each process of a launcher writes what is its own
GATHERED = ("images", "statistics")  # of `evaluate`: all processes work, the first one prints and writes
CHOICE = re.compile(r"'([^']*)' is not one of '(.*)'\.")  # typer's message for a value that is no choice


class Group(TyperGroup):
    """A group that names the nearest commands for an unknown one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As typer's. Raises BadInput for an unknown command."""
        if not (args[0].startswith("-") or ctx.resilient_parsing or self.get_command(ctx, args[0])):
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """A command whose choices are refused as all other bad input is, and whose help ends with examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer's. Raises BadInput for a value that is none of an option's choices."""
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if (found := CHOICE.search(error.message)) is None or error.param is None:
                raise
            raise unknown(f"value of {error.param.opts[0]}", found[1], found[2].split("', '")) from None

    def invoke(self, ctx: Any) -> Any:
        """As typer's, with a line every 15 s without one; not where something may be timed.

        Of several processes of a launcher the first one alone prints; it works alone where work is not shared.
        """
        with ExitStack() as around:
            if self.name not in SHARED and distributed.position()[0]:
                if self.name not in GATHERED:
                    return None
                around.enter_context(console.quietly())
                around.enter_context(redirect_stdout(io.StringIO()))
            if self.name in GATHERED and distributed.position()[1] > 1:
                distributed.device()
            if self.name not in TIMED:
                around.enter_context(console.waiting(ctx.command_path))
            return super().invoke(ctx)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Examples under a heading of their own, a line each."""
        if self.epilog:
            with formatter.section("Examples"):
                formatter.write_text("\b\n" + self.epilog)


def register(app: typer.Typer, name: str, function: Callable[..., None], group: str = "") -> None:
    """Add a command whose summary is the first paragraph of its docstring; ``group``: the words before its name."""
    summary = " ".join(inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].split())
    examples = "\n".join(EXAMPLES[f"{group} {name}".strip()])
    app.command(name, cls=Command, short_help=summary, epilog=examples)(function)
