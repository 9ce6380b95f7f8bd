"""The one clock of the tests: it guards against waiting for ever and decides nothing else."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], running: Callable[[], bool] = lambda: True, seconds: float = 300) -> None:
    """Return once ``condition`` holds.

    Args:
        condition: asked again and again.
        running: whether what is waited for can still come; else it is an error, unless ``condition`` holds by then.
        seconds: after which it is an error, however busy the machine.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert running() or condition(), "it ended before what was waited for"
        assert time.monotonic() < deadline, f"nothing within {seconds:.0f} s"
        time.sleep(0.002)
