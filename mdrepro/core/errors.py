"""The two errors that end work early with a message for the user."""

import difflib
from collections.abc import Collection, Iterable, Sequence


class BadInput(ValueError):
    """Input that the user can correct; the message names the valid choices.

    The command line prints only the message and exits with code 2, also when a notebook raised it.
    """


class NotAttempted(RuntimeError):
    """Something needed is not on this machine.

    The message says what is missing and how to get it. A measurement catches it, records the cell as "not attempted"
    with the message as its reason, and continues.
    """


def unknown(kind: str, name: str, choices: Iterable[str]) -> BadInput:
    """The error for an unknown ``name`` of a ``kind`` of thing: the nearest choice, then all of them."""
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return BadInput(f"unknown {kind} {name!r}{hint}; allowed: {', '.join(choices) or 'none'}")


def check(kind: str, name: str, choices: Collection[str]) -> str:
    """The name, if it is one of the choices. Raises BadInput with the message of `unknown` otherwise."""
    if name not in choices:
        raise unknown(kind, name, choices)
    return name


def select_all(kind: str, wanted: Sequence[str], choices: Iterable[str]) -> list[str]:
    """The wanted choices, ``all`` for every one; in their order, each once. Raises BadInput for another name."""
    choices = list(choices)
    for name in wanted:
        if name != "all":
            check(kind, name, choices)
    return [name for name in choices if name in wanted or "all" in wanted]
