"""The order of the examples, a function of seed and step, and a thread that has the next batches ready."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mdrepro.data.examples import Batch, Examples

AHEAD = 2  # steps whose batches are made while one is trained on


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of ``count`` examples in one pass over them, int64 (count,)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(count)


class Order:
    """The endless row of examples that a run sees: one pass after the other, each in an order of its own.

    Batches go on across the end of a pass, so none is cut short.

    Args:
        seed: of the run, from 0.
        count: examples.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self._passes: dict[int, np.ndarray] = {}

    def indices(self, places: range) -> list[int]:
        """The examples at these places of the row."""
        return [int(self._pass(place // self.count)[place % self.count]) for place in places]

    def _pass(self, epoch: int) -> np.ndarray:
        if epoch not in self._passes:
            self._passes = {key: kept for key, kept in self._passes.items() if key == epoch - 1}
            self._passes[epoch] = permutation(self.seed, epoch, self.count)
        return self._passes[epoch]


def feed(
    examples: Examples, order: Order, steps: range, batch: int, micro: Sequence[range]
) -> Generator[tuple[int, list[Batch]]]:
    """Each step with its micro-batches, which a thread makes ahead of time; an error in it is raised here, in turn.

    Args:
        examples: the data.
        order: of the data.
        steps: which to go through.
        batch: samples of a step, over all processes.
        micro: this process's micro-batches, as places in a step's batch.
    """

    def made(step: int) -> list[Batch]:
        return [
            examples.batch(order.indices(range(step * batch + places.start, step * batch + places.stop)))
            for places in micro
        ]

    pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
    try:
        ahead = deque(pool.submit(made, step) for step in steps[:AHEAD])
        for position, step in enumerate(steps):
            batches = ahead.popleft().result()
            if position + AHEAD < len(steps):
                ahead.append(pool.submit(made, steps[position + AHEAD]))
            yield step, batches
    finally:
        pool.shutdown(cancel_futures=True)
