"""The order of the examples, a function of seed and step, and a thread that prepares the next batches."""

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mdrepro.data.examples import Batch, Examples, Stepwise

AHEAD = 2  # steps whose batches are prepared while one is trained on


def permutation(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of ``count`` examples in one pass over them, int64 (count,)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch]))).permutation(count)


class Order:
    """The endless sequence of ``count`` examples that a run sees: passes, each in an order of its own.

    Batches go on across the end of a pass, so none is cut short.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self._passes: dict[int, np.ndarray] = {}

    def indices(self, positions: range) -> list[int]:
        """The examples at these positions."""
        return [int(self._pass(position // self.count)[position % self.count]) for position in positions]

    def _pass(self, epoch: int) -> np.ndarray:
        if epoch not in self._passes:
            self._passes = {key: kept for key, kept in self._passes.items() if key == epoch - 1}
            self._passes[epoch] = permutation(self.seed, epoch, self.count)
        return self._passes[epoch]


def feed(
    examples: Examples, order: Order, steps: range, batch: int, micro: Sequence[range]
) -> Generator[tuple[int, list[Batch]]]:
    """Each step with its micro-batches, which a thread prepares ahead of time; an error in it is raised here, in turn.

    Args:
        examples, order: the data and its order.
        steps: which to go through.
        batch: samples of a step, over all processes.
        micro: this process's micro-batches, as indices in a step's batch.
    """

    def batches_of(step: int) -> list[Batch]:
        first = step * batch
        seen = examples.of_step(step) if isinstance(examples, Stepwise) else examples
        return [seen.batch(order.indices(range(first + rows.start, first + rows.stop))) for rows in micro]

    pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
    try:
        ahead = deque(pool.submit(batches_of, step) for step in steps[:AHEAD])
        for position, step in enumerate(steps):
            batches = ahead.popleft().result()
            if position + AHEAD < len(steps):
                ahead.append(pool.submit(batches_of, steps[position + AHEAD]))
            yield step, batches
    finally:
        pool.shutdown(cancel_futures=True)
