"""Every reader of the package on damaged files: a value or BadInput, no hang, nothing that a hash or form rules out.

``make faults`` tries 20,000 cases over all readers; ``make test`` a few of each. ``MDREPRO_FAULTS`` is their number.
"""

import logging
import math
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mdrepro.core.errors import BadInput
from tests.support.damage import damaged
from tests.support.readers import READERS, plain

torch.set_num_threads(1)
WHOLE = int(os.environ.get("MDREPRO_FAULTS", "0"))
SHARES = sum(reader.share for reader in READERS.values())
CPU_SECONDS, SECONDS = 5, 120
"""Of one case, at most: of the processor; and in all, where a reader waits for something."""


class Hang(BaseException):
    """A reader went on for too long."""


@contextmanager
def bounded() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    kinds = ((signal.SIGPROF, signal.ITIMER_PROF, CPU_SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, SECONDS))
    before = [signal.signal(number, stop) for number, _, _ in kinds]
    for _, timer, seconds in kinds:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(kinds, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def listing(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module", autouse=True)
def _silent() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_give_a_value_or_bad_input(name: str, tmp_path: Path) -> None:
    reader = READERS[name]
    folder = tmp_path / "valid"
    folder.mkdir()
    reader.make(folder)
    valid = listing(folder)
    files = [path for path in valid if path.match(reader.files) and valid[path]]
    assert files
    truth = plain(reader.read(folder))
    counts = Counter[str]()

    @settings(
        max_examples=math.ceil(WHOLE * reader.share / SHARES) if WHOLE else 4,
        deadline=None,
        database=None,
        derandomize=not WHOLE,
        print_blob=False,
        phases=[Phase.generate, Phase.shrink] if WHOLE else [Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def damage(data: st.DataObject) -> None:
        file = files[data.draw(st.integers(0, len(files) - 1))] if len(files) > 1 else files[0]
        kind, content = data.draw(damaged(valid[file]))
        file.write_bytes(content)
        try:
            with bounded():
                value = plain(reader.read(folder))
        except BadInput:
            counts["refused"] += 1
        else:
            counts["read"] += 1
            assert value == truth or kind not in reader.ruled_out, f"{kind} of {file.name} was taken for whole"
        finally:
            for path in [*folder.rglob("*"), *valid]:
                if path not in valid and path.is_file():
                    path.unlink()
                elif path in valid and (not path.is_file() or path.read_bytes() != valid[path]):
                    path.parent.mkdir(exist_ok=True, parents=True)
                    path.write_bytes(valid[path])

    try:
        damage()
    finally:
        if WHOLE:
            with open(os.environ["MDREPRO_FAULTS_LOG"], "a") as log:
                print(f"fuzz: {name}\t{counts.total()}\t{counts['refused']} refused", file=log)


def test_plain_values_tell_weights_and_numbers_apart() -> Any:
    assert plain({"a": torch.zeros(2)}) != plain({"a": torch.ones(2)})
    assert plain([1, 2.0]) == plain([1, 2.0])
    with pytest.raises(AssertionError, match="not finite"):
        plain({"a": [float("nan")]})
