"""Work on several items at once, each by one thread of torch.

Networks as small as those of the quick tier gain more from items side by side than from threads within each: these wait
for one another at every operation, and where other programs run, too, they wait in a loop.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


def side_by_side(work: Callable[[Item], Found], items: Iterable[Item]) -> Iterator[Found]:
    """What ``work`` finds for each item, in their order, as many at once as torch has threads.

    Each of the workers computes by one thread; after the last item, or an error, torch has as many as before, and items
    that were not begun never are.
    """
    import torch

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "side-by-side", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(work, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
