"""The two ways in which work can end early and still be understood."""

import difflib
from collections.abc import Iterable


class BadInput(ValueError):
    """Input that the user can correct; the message names what is allowed.

    The command line prints the message alone and exits with code 2; a notebook that
    raises it ends its run the same way.
    """


class NotAttempted(RuntimeError):
    """Something needed is not on this machine.

    The message says what is missing and how to get it. Whoever measures catches it, records the cell as
    "not attempted" with the message as its reason, and goes on.
    """


def unknown(kind: str, name: str, choices: Iterable[str]) -> BadInput:
    """The error for a ``kind`` of thing called ``name`` that does not exist: the nearest choice, then all of them."""
    choices = list(choices)
    near = difflib.get_close_matches(name, choices, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return BadInput(f"unknown {kind} {name!r}{hint}; allowed: {', '.join(choices) or 'none'}")
