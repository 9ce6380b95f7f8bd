"""Random numbers of training, addressed rather than consumed: a number depends only on where it is needed.

Philox (Salmon et al. 2011) maps a key (seed and stream) and a counter (step, call and global index of the sample) to
random bits, so no state is carried from step to step and nothing must be restored.
"""

import hashlib
import math

import numpy as np
import torch
from torch import Tensor


class Draws:
    """All random numbers of one micro-batch: the same however a batch is split over processes and micro-batches.

    Calls are counted: the second ``normal`` differs from the first, and all processes must make the same calls in the
    same order.

    Args:
        seed, step: of the run, and of the optimiser, from 0.
        first, count: index in the global batch of this micro-batch's first sample, and its samples.
        device: where the tensors go; they are drawn on the CPU, so every device gets the same numbers.
        stream: keeps users apart that share seed and step.
    """

    def __init__(
        self, seed: int, step: int, first: int, count: int, device: torch.device | str = "cpu", stream: str = ""
    ) -> None:
        digest = hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=16).digest()
        self.first, self.count, self.device = first, count, torch.device(device)
        self.step, self._calls = step, 0
        self._bits = np.random.Philox(key=np.frombuffer(digest, np.uint64))
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (count, *shape), float32."""
        values = np.empty((self.count, math.prod(shape)), np.float32)
        call = self._next_call()
        for row, index in zip(values, range(self.first, self.first + self.count), strict=True):
            self._seek(0, call, index)
            self._generator.standard_normal(dtype=np.float32, out=row)
        return self._placed(values.reshape(self.count, *shape))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Numbers (count,), float32, uniform in [low, high)."""
        share = (self._bits_64() >> np.uint64(40)) * 2.0**-24
        values = (low + (high - low) * share).astype(np.float32)
        return self._placed(np.minimum(values, np.nextafter(np.float32(high), np.float32(low))))

    def integers(self, low: int, high: int) -> Tensor:
        """Integers (count,), int64, uniform in [low, high)."""
        share = (self._bits_64() >> np.uint64(11)) * 2.0**-53
        return self._placed(low + np.floor((high - low) * share).astype(np.int64))

    def seed(self) -> int:
        """One number in [0, 2**63), the same in every micro-batch of the step; for modules that draw for themselves."""
        self._seek(0, self._next_call(), 0)
        return int(self._bits.random_raw()) >> 1

    def _bits_64(self) -> np.ndarray:
        """64 random bits for each sample: a block of Philox is four words, of which the first is taken."""
        self._seek(self.first, self._next_call(), 0)
        return self._bits.random_raw(4 * self.count)[::4]

    def _next_call(self) -> int:
        self._calls += 1
        return self._calls

    def _seek(self, block: int, call: int, index: int) -> None:
        self._state["state"]["counter"][:] = (block, call, index, self.step)
        self._bits.state = self._state

    def _placed(self, values: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(values)
        if self.device.type == "cuda":  # from pageable memory the copy would wait for all work queued before it
            return tensor.pin_memory().to(self.device, non_blocking=True)
        return tensor.to(self.device)
