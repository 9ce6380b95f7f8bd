"""The gate: PSNR by hand, and what is let through."""

import math

import numpy as np
import pytest

from mdrepro.export import parity


def test_psnr_by_hand() -> None:
    wanted = np.array([-1.0, 0.0, 1.0, 0.5], np.float32)
    found = wanted + np.array([0.02, -0.02, 0.02, -0.02], np.float32)
    near = parity.compare([wanted], [found])
    assert near.psnr_db == pytest.approx(20 * math.log10(2 / 0.02), abs=0.01)
    assert near.max_error == pytest.approx(0.02, rel=1e-5)
    assert parity.compare([wanted], [found], span=1.0).psnr_db == pytest.approx(20 * math.log10(1 / 0.02), abs=0.01)
    both = parity.compare([wanted, wanted], [wanted, found])
    assert both.psnr_db == pytest.approx(near.psnr_db + 10 * math.log10(2), abs=0.01)
    assert (both.inputs, both.largest) == (2, 1.0)


def test_equal_and_broken_outputs() -> None:
    some = np.arange(4, dtype=np.float32)
    assert parity.compare([some], [some]).psnr_db == parity.CAP
    for broken in (math.nan, math.inf):
        assert parity.compare([some], [np.full(4, broken)]).psnr_db == -parity.CAP
    assert parity.compare([some * 0], [some]).psnr_db == 0.0


@pytest.mark.parametrize(("precision", "least"), [("fp32", 80), ("fp16", 50), ("int8", 35), ("palette8", 35)])
def test_the_gate(precision: str, least: float) -> None:
    parity.gate("unet", precision, parity.Parity(least, 0, 1, 1))
    for psnr in (least - 0.01, -parity.CAP, math.nan):
        with pytest.raises(parity.GateMissed, match=f"unet in {precision} is .* {least} dB"):
            parity.gate("unet", precision, parity.Parity(psnr, 0, 1, 1))


def test_the_gate_of_images() -> None:
    parity.gate_image("fp32", 40.0)
    with pytest.raises(parity.GateMissed, match="40 dB"):
        parity.gate_image("fp32", 39.9)
