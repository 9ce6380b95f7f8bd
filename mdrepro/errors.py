"""The two ways in which work can end early and still be understood."""


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
