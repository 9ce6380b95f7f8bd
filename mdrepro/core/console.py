"""What commands print: tables of plain text."""

from collections.abc import Sequence


def columns(lines: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Left-aligned columns, two spaces apart; the first line is the header."""
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    texts = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(indent + text.rstrip() for text in texts)
