"""What a command that is refused prints."""

from typing import Any


def refused(run: Any, *arguments: object, code: int = 2) -> str:
    """The one line that a command ends with."""
    found, out, error = run(*arguments)
    assert found == code, (out, error)
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    return str(line)
