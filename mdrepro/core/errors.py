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


def unknown(kind: str, name: str, choices: Iterable[str], listed: str | None = None) -> BadInput:
    """The error for an unknown ``name`` of a ``kind`` of thing: the nearest choices, then all of them.

    ``listed``: what to say in place of all where they are too many to read, such as the command that lists them.
    A name that was read from a file may be of another type, and is then like no choice.
    """
    choices = list(choices)
    near = nearest(name, choices, 3 if listed else 1) if isinstance(name, str) else []
    hint = f" (did you mean {' or '.join(near)}?)" if near else ""
    return BadInput(f"unknown {kind} {name!r}{hint}; allowed: {listed or ', '.join(choices) or 'none'}")


def nearest(name: str, choices: Iterable[str], most: int = 1) -> list[str]:
    """Choices that ``name`` may stand for: one to three that begin with it or contain it, else the ``most`` alike.

    Case, and ``_`` for ``-``, make no difference. Parts of one or two letters, or of many choices, say nothing.
    """
    plain = {choice: choice.casefold().replace("_", "-") for choice in choices}
    wanted = name.casefold().replace("_", "-")
    begin = [choice for choice, text in plain.items() if wanted and text.startswith(wanted)]
    contain = [choice for choice, text in plain.items() if len(wanted) > 2 and wanted in text]
    for found in (begin, contain):
        if 0 < len(found) <= 3:
            return found
    alike = difflib.get_close_matches(wanted, plain.values(), n=most)
    return [next(choice for choice, text in plain.items() if text == each) for each in dict.fromkeys(alike)]


def check(kind: str, name: str, choices: Collection[str], listed: str | None = None) -> str:
    """The name, if it is one of the choices. Raises BadInput with the message of `unknown` otherwise."""
    if name not in choices:
        raise unknown(kind, name, choices, listed)
    return name


def select_all(kind: str, wanted: Sequence[str], choices: Iterable[str]) -> list[str]:
    """The wanted choices, ``all`` for every one; in their order, each once. Raises BadInput for another name."""
    choices = list(choices)
    for name in wanted:
        if name != "all":
            check(kind, name, choices)
    return [name for name in choices if name in wanted or "all" in wanted]
