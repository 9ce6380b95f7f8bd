"""A text stream that writes a name before each line: jobs that run side by side share one terminal."""

import io
import re
from typing import TextIO


class Prefixed(io.TextIOBase):
    """Passes whole lines on to ``stream``, each after ``[name] ``; empty lines are dropped, ``\\r`` ends a line too."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.prefix, self.stream, self.rest = f"[{name}] ", stream, ""

    def write(self, text: str) -> int:
        *lines, self.rest = re.split(r"[\r\n]", self.rest + text)
        for line in lines:
            if line.strip():
                self.stream.write(self.prefix + line.rstrip() + "\n")
        self.stream.flush()
        return len(text)

    def flush(self) -> None:
        self.stream.flush()
