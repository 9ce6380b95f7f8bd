"""The gate: an exported network is held to torch on the same inputs, and is not written where it is too far off.

PSNR is 20 log10(range / rms error), the range being that of torch's output, its largest value less its smallest; over
all inputs that are compared. An image's range is 1. No more than `CAP` dB is said.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GATES: Mapping[str, float] = {"fp32": 80.0, "fp16": 50.0, "int8": 35.0, "int8-dynamic": 35.0, "palette8": 35.0}
"""Least PSNR of a component by precision, dB."""
IMAGE_GATES: Mapping[str, float] = {"fp32": 40.0, "fp16": 30.0, "int8": 20.0, "int8-dynamic": 20.0}
"""Least PSNR of a finished image by precision, dB."""
CAP = 200.0
DRAWS = 3
"""Inputs that a component is compared on."""

Outputs = NDArray[Any]


class GateMissed(RuntimeError):
    """An exported network is too far from torch's; no file was written."""


@dataclass(frozen=True)
class Parity:
    """How near two outputs are.

    Args:
        psnr_db: see above.
        max_error: the largest difference.
        largest: the largest value of torch's, in absolute terms.
        inputs: how many were compared.
    """

    psnr_db: float
    max_error: float
    largest: float
    inputs: int

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def compare(wanted: Sequence[Outputs], found: Sequence[Outputs], span: float | None = None) -> Parity:
    """Hold outputs to those that are wanted.

    Args:
        wanted, found: one array for each input, in the same order.
        span: the range; None for that of ``wanted``.
    """
    left = np.concatenate([one.astype(np.float64).ravel() for one in wanted])
    right = np.concatenate([one.astype(np.float64).ravel() for one in found])
    difference = np.abs(left - right)
    error = float(np.sqrt(np.mean(difference**2)))
    whole = float(np.ptp(left)) if span is None else span
    if not math.isfinite(error):
        psnr = -CAP
    elif error == 0 or whole == 0:
        psnr = CAP if error == 0 else 0.0
    else:
        psnr = min(CAP, 20 * math.log10(whole / error))
    return Parity(round(psnr, 2), float(difference.max()), float(np.abs(left).max()), len(wanted))


def gate(name: str, precision: str, parity: Parity) -> None:
    """Do nothing where a component is near enough. Raises GateMissed."""
    if not parity.psnr_db >= GATES[precision]:
        raise GateMissed(
            f"{name} in {precision} is {parity.psnr_db:.1f} dB from torch's, and {GATES[precision]:g} dB are needed "
            f"(largest error {parity.max_error:.3g} of {parity.largest:.3g}): it was not written"
        )


def gate_image(precision: str, psnr_db: float) -> None:
    """Do nothing where an image is near enough to the torch pipeline's. Raises GateMissed."""
    if not psnr_db >= IMAGE_GATES[precision]:
        raise GateMissed(
            f"the image in {precision} is {psnr_db:.1f} dB from torch's, and {IMAGE_GATES[precision]:g} dB "
            "are needed: nothing was written"
        )


def measure(component: Any, run: Callable[[Mapping[str, Outputs]], Outputs], draws: int = DRAWS) -> Parity:
    """A component's exported network against torch.

    Args:
        component: of `mdrepro.export.components`.
        run: the exported network: inputs by name to its output.
        draws: inputs.
    """
    wanted, found = [], []
    for number in range(1, draws + 1):
        inputs = component.draw(number)
        wanted.append(component.reference(number).numpy())
        found.append(run({name: value.numpy() for name, value in inputs.items()}))
    return compare(wanted, found)
