"""What a killed process leaves where names are not exchanged in one step."""

import subprocess
from pathlib import Path

from mdrepro.core.files import HOST


def between_two_renames(final: Path) -> None:
    """Moves ``final`` away as a process did that was killed before the new one had the name."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    hidden = f".{final.name}.{HOST}.{dead.pid}.0123abcd"
    final.with_name(hidden).mkdir()
    final.rename(final.with_name(f"{hidden}.old"))
