"""Training data as the loop and the caches take them: batches by index."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

Batch = dict[str, Any]
"""Tensors (b, ...) and lists of length b. Keys in use: "pixels" uint8 (b, 3, h, w); "latent" float32 (b, c, h, w),
scaled as the denoiser sees it; "text" float32 (b, tokens, width); "caption" list[str]."""


class Examples(Protocol):
    """Index-addressable training data; ``fingerprint`` is a hash of it, and a run is not resumed on other data."""

    fingerprint: str

    def __len__(self) -> int: ...
    def batch(self, indices: Sequence[int]) -> Batch:
        """The examples at ``indices`` alone, tensors on the CPU; called from a background thread."""


@runtime_checkable
class Stepwise(Protocol):
    """Examples whose shape changes from step to step, as crops of several sizes do.

    An index may stand for several samples, for the same number in the whole batch of a step.
    """

    def of_step(self, step: int) -> Examples:
        """The examples as this step sees them, a function of the step."""
