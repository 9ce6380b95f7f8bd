"""Locks between processes: they wait, refuse, and go with the process that held them."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mdrepro.core.errors import BadInput
from mdrepro.core.locks import hold

HOLDER = """
import select, sys
from pathlib import Path
from mdrepro.core.locks import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    select.select([sys.stdin], [], [], 20)
"""


@contextmanager
def held(file: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds a lock until a line is written to it, or 20 s have passed."""
    command = [sys.executable, "-c", HOLDER, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_free_lock_is_held_without_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    for _ in range(2):
        with hold(tmp_path / "deep" / "lock", busy=lambda: told.append("busy"), refuse="refused"):
            assert (tmp_path / "deep" / "lock").exists()
    assert not told


def test_a_held_lock_is_refused_with_the_given_message(tmp_path: Path) -> None:
    with (
        held(tmp_path / "lock"),
        pytest.raises(BadInput, match="it runs already"),
        hold(tmp_path / "lock", refuse="it runs already"),
    ):
        pytest.fail("two processes hold one lock")


@pytest.mark.parametrize("how", ["end", "kill"])
def test_a_held_lock_is_waited_for_until_its_process_ends_or_is_killed(tmp_path: Path, how: str) -> None:
    told: list[str] = []
    with held(tmp_path / "lock") as process:

        def end() -> None:
            assert not told or told == ["busy"]
            if how == "kill":
                process.send_signal(signal.SIGKILL)
            else:
                assert process.stdin
                process.stdin.write("\n")
                process.stdin.flush()

        def busy() -> None:
            told.append("busy")
            assert process.poll() is None
            threading.Thread(target=end).start()

        with hold(tmp_path / "lock", busy=busy):
            assert told == ["busy"]
            with pytest.raises(BadInput, match="held here"), hold(tmp_path / "lock", refuse="held here"):
                pytest.fail("the lock is free while it is held")
            process.wait(10)
    with hold(tmp_path / "lock", refuse="still held"):
        pass
