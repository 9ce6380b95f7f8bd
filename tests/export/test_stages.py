"""The stages of an export: seconds, the most memory, and progress that is shown although all else is kept away."""

import os

import numpy as np
import pytest

from mdrepro.core import console
from mdrepro.export import stages
from mdrepro.export.stages import Stages
from tests.support.waiting import wait_until


def test_stages_are_shown_and_what_runs_in_them_is_not(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_SECONDS", 0.0)
    monkeypatch.setattr(stages, "SECONDS", 0.001)
    with Stages("unet", 2) as shown:
        for name in ("converting", "comparing"):
            with shown.stage(name):
                print("chatter")
                os.write(2, b"chatter")
                held = np.ones(2**24)
                wait_until(lambda: name in shown._progress.facts())  # noqa: B023
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "chatter" not in captured.err
    lines = captured.err.splitlines()
    assert any(line.startswith("unet: 0 of 2, converting, ") and line.endswith(" GB") for line in lines)
    assert any("1 of 2" in line and "comparing, " in line for line in lines)
    assert list(shown.seconds) == ["converting", "comparing"]
    assert shown.peak > held.nbytes
