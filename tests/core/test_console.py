"""Tables, verdicts and progress as they are printed: on terminals of 80 and 120 columns, and into a pipe."""

import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from fcntl import ioctl

import pytest

from mdrepro.core import console
from mdrepro.core.console import Progress, columns, paragraph, styled, track

TABLE = [
    ("table", "tiers", "change", "verdict", "title"),
    ("mobilediffusion-vae-reconstruction", "quick", "-1.5", "reproduced", "Reconstruction quality of the decoders"),
    ("snapfusion-step-distillation", "quick, proxy, paper", "12,345", "differs", "8 distilled steps against others"),
    ("snapfusion-evolution", "quick", "1e-05", "within noise", "Robust training and evolution of the UNet"),
]
CODES = re.compile(r"\x1b\[[0-9;]*m")
Terminal = Callable[[int], None]


class Screen(io.StringIO):
    """A terminal's stream, as far as Python can tell."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Makes standard output a terminal of so many columns, which takes colour."""

    def make(wide: int) -> None:
        monkeypatch.setenv("COLUMNS", str(wide))
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, "stdout", Screen())

    return make


def words(text: str) -> set[str]:
    return set(re.split(r"[\s_/-]+", CODES.sub("", text)))


def test_a_pipe_gets_each_row_whole_on_one_line() -> None:
    lines = columns(TABLE, indent="").split("\n")
    assert len(lines) == 4
    assert all(line.endswith(title) for line, (*_, title) in zip(lines, TABLE, strict=True))
    assert "mobilediffusion-vae-reconstruction  quick                  −1.5  reproduced    Reconstruct" in lines[1]
    assert not CODES.search("".join(lines))
    assert lines[0].startswith("table   ")


def test_numbers_stand_to_the_right_with_one_kind_of_minus() -> None:
    lines = columns(TABLE, indent="").split("\n")
    ends = {
        line.index(text) + len(text) for line, text in zip(lines, ("change", "−1.5", "12,345", "1e−05"), strict=True)
    }
    assert len(ends) == 1
    assert columns([("a", "b"), ("-", "–"), ("x", "-3.5")]).split("\n")[1:] == ["  -     –", "  x  −3.5"]
    assert columns([("a", "b"), ("x", "[-0.5, 1.25]"), ("y", "[2, 3]")]).split("\n")[1:] == [
        "  x  [−0.5, 1.25]",
        "  y        [2, 3]",
    ]


@pytest.mark.parametrize("wide", [80, 120])
def test_a_table_is_never_wider_than_the_terminal_and_loses_nothing(terminal: Terminal, wide: int) -> None:
    piped = columns(TABLE)
    terminal(wide)
    shown = columns(TABLE)
    plain = CODES.sub("", shown).split("\n")
    assert max(map(len, plain)) <= wide
    assert words(shown) == words(piped)
    assert all(any(name in line for line in plain) for name, *_ in TABLE) or wide == 80


def test_titles_give_up_width_before_names(terminal: Terminal) -> None:
    terminal(100)
    plain = CODES.sub("", columns(TABLE, indent=""))
    assert all(name in plain for name, *_ in TABLE)
    assert "Reconstruction quality of the decoders" not in plain


def test_rows_that_begin_alike_share_a_heading_where_width_is_short(terminal: Terminal) -> None:
    table = [("row", "column", "protocol")]
    table += [
        (row, name, "a protocol of many words " * 3) for row in ("sd15", "ours") for name in ("fid", "clip", "macs")
    ]
    terminal(80)
    plain = CODES.sub("", columns(table, indent="")).split("\n")
    assert [line for line in plain if line in ("sd15", "ours")] == ["sd15", "ours"]
    assert plain[0].startswith("column")
    assert plain[plain.index("sd15") + 1].startswith("  fid ")
    terminal(200)
    assert columns(table, indent="").count("sd15") == 3


@pytest.mark.parametrize("wide", [24, 40])
def test_where_nothing_fits_a_row_becomes_a_block(terminal: Terminal, wide: int) -> None:
    table = [tuple(f"column {name}" for name in "abcdefgh"), ("1234.5678",) * 8, ("0.5",) * 8]
    terminal(wide)
    plain = CODES.sub("", columns(table)).split("\n")
    assert max(map(len, plain)) <= wide
    assert plain[8] == ""
    assert [line.split() for line in plain[:2]] == [["column", "a", "1234.5678"], ["column", "b", "1234.5678"]]


def test_columns_without_a_value_are_left_out() -> None:
    assert columns([("a", "unit", "b"), ("1", "", "2")], indent="") == "a  b\n1  2"
    assert columns([("a", "unit")], indent="") == "a  unit"


def test_verdicts_are_coloured_on_terminals_that_want_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert styled("differs") == "differs"
    terminal(200)
    shown = columns(TABLE)
    for verdict, code in (("reproduced", 32), ("differs", 31), ("within noise", 33)):
        assert f"\x1b[{code}m{verdict}\x1b[0m" in shown
        assert styled(verdict) == f"\x1b[{code}m{verdict}\x1b[0m"
    assert styled("a title") == "a title"
    assert CODES.sub("", shown) == columns_plain(monkeypatch)
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        terminal(200)
        monkeypatch.setenv(name, value)
        assert not CODES.search(columns(TABLE))


def columns_plain(monkeypatch: pytest.MonkeyPatch) -> str:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.StringIO())
        return columns(TABLE)


def test_paragraphs_are_wrapped_on_terminals_alone(terminal: Terminal) -> None:
    text = "NO   weights: put them there with hf download openai/clip --local-dir data/weights/clip, or link a folder"
    assert paragraph(text, "  ", mark="NO") == "  " + text
    terminal(60)
    first, *others = paragraph(text, "  ", hanging=5, mark="NO").split("\n")
    assert first.startswith("  \x1b[31mNO\x1b[0m   weights:")
    assert all(line.startswith("       ") and len(line) <= 60 for line in others)
    assert "--local-dir" in "".join(others)


def test_progress_into_a_pipe_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with Progress("training", 4000, "images", done=1000) as progress:
        for second in range(1, 41):
            now[0] = 100.0 + second
            progress.advance(50)
            progress.note(f"step {second}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "training: 1,750 of 4,000, 50 images/s, 0:00:45 left, step 14",
        "training: 2,500 of 4,000, 50 images/s, 0:00:30 left, step 29",
    ]
    with Progress("silent", 2, show=False) as silent:
        now[0] += 100
        silent.advance()
    assert list(track(["a", "b"], "quick", "things")) == ["a", "b"]
    assert capsys.readouterr().err == ""


LIVE = """
import sys, time
from mdrepro.core.console import Progress, track
with Progress("an export with a rather long title", 3, "stages") as outer:
    for one in track(range(3), "images", "batches"):
        outer.note("converting " + "at length " * 20)
        print("printed", one, flush=True)
        outer.advance()
        time.sleep(0.6)
assert "rich" in sys.modules
"""


@pytest.mark.parametrize("wide", [80, 120])
def test_progress_on_a_terminal_is_one_line_for_each_that_runs(wide: int) -> None:
    main, side = pty.openpty()
    ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 30, wide, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", LIVE], stdout=side, stderr=side, env=environment | {"TERM": "xterm-256color"}
    )
    os.close(side)
    seen = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        seen += part
    assert process.wait() == 0
    text = seen.decode()
    assert "?25l" not in text  # the cursor: a killed process could not show it again
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = re.split(r"[\r\n]+", plain)
    assert max(map(len, lines)) <= wide
    assert [line for line in lines if line.startswith("printed")] == ["printed 0", "printed 1", "printed 2"]
    assert any(line.startswith("images") and "1 of 3, " in line for line in lines)
    assert any(line.startswith("an export") and "converting" in line for line in lines)


def test_tables_need_no_rich() -> None:
    code = (
        "import sys\nfrom mdrepro.core.console import columns\ncolumns([('a',), ('b',)])\nprint('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
