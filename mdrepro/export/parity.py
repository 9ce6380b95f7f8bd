"""The parity check: an exported network is compared with PyTorch on the same inputs, and not written if too far off.

PSNR is 20 log10(range / rms error) over all inputs that are compared, the range being the largest value of PyTorch's
output less its smallest. An image's range is 1. PSNR is capped at `CAP` dB.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mdrepro.export.components import Component

GATES: Mapping[str, float] = {"fp32": 80.0, "fp16": 50.0, "int8": 35.0, "int8-dynamic": 35.0, "palette8": 35.0}
"""Least PSNR of a component by precision, dB."""
IMAGE_GATES: Mapping[str, float] = {"fp32": 40.0, "fp16": 30.0, "int8": 20.0, "int8-dynamic": 20.0}
"""Least PSNR of a finished image by precision, dB."""
CAP = 200.0
DRAWS = 3  # inputs that a component is compared on

Outputs = NDArray[Any]  # of a network, any shape


class GateMissed(RuntimeError):
    """An exported network is too far from PyTorch's; no file was written."""


@dataclass(frozen=True)
class Parity:
    """How close two outputs are.

    Args:
        psnr_db: see above.
        max_error, largest: the largest absolute difference, and absolute value of PyTorch's output.
        inputs: how many were compared.
    """

    psnr_db: float
    max_error: float
    largest: float
    inputs: int


def compare(reference: Sequence[Outputs], outputs: Sequence[Outputs], span: float | None = None) -> Parity:
    """Compare outputs with reference outputs, an array for each input; ``span`` None for the range of ``reference``."""
    left, right = (np.concatenate([one.astype(np.float64).ravel() for one in many]) for many in (reference, outputs))
    difference = np.abs(left - right)
    error = float(np.sqrt(np.mean(difference**2)))
    whole = float(np.ptp(left)) if span is None else span
    if not math.isfinite(error):
        psnr = -CAP
    elif error == 0 or whole == 0:
        psnr = CAP if error == 0 else 0.0
    else:
        psnr = min(CAP, 20 * math.log10(whole / error))
    return Parity(round(psnr, 2), float(difference.max()), float(np.abs(left).max()), len(reference))


def gate(name: str, precision: str, parity: Parity) -> None:
    """Raise GateMissed if a component is too far from PyTorch's."""
    if not parity.psnr_db >= GATES[precision]:
        raise GateMissed(
            f"{name} in {precision} is {parity.psnr_db:.1f} dB from PyTorch's, and {GATES[precision]:g} dB are needed "
            f"(largest error {parity.max_error:.3g} of {parity.largest:.3g}): it was not written"
        )


def gate_image(precision: str, psnr_db: float) -> None:
    """Raise GateMissed if an image is too far from the PyTorch pipeline's."""
    if not psnr_db >= IMAGE_GATES[precision]:
        raise GateMissed(
            f"the image in {precision} is {psnr_db:.1f} dB from PyTorch's, and {IMAGE_GATES[precision]:g} dB "
            "are needed: nothing was written"
        )


def measure(component: "Component", run: Callable[[Mapping[str, Outputs]], Outputs], draws: int = DRAWS) -> Parity:
    """A component against its exported network, ``run`` with inputs by name, on as many ``draws`` of inputs."""
    numbers = range(1, draws + 1)
    inputs = [{name: value.numpy() for name, value in component.draw(number).items()} for number in numbers]
    return compare([component.reference(number).numpy() for number in numbers], [run(values) for values in inputs])
