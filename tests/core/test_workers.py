"""Work side by side: order, one thread of torch in each worker, what is left after an error."""

import threading

import pytest
import torch

from mdrepro.core.workers import side_by_side


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_items_are_worked_on_at_once_and_come_in_their_order(two_threads):
    both = threading.Barrier(2, timeout=60)  # passed by two workers at once alone

    def work(item):
        both.wait()
        return item, threading.get_ident(), torch.get_num_threads()

    found = list(side_by_side(work, range(6)))
    assert [item for item, _, _ in found] == list(range(6))
    assert len({worker for _, worker, _ in found}) == 2
    assert {threads for _, _, threads in found} == {1}
    assert torch.get_num_threads() == 2


def test_an_error_ends_it_and_leaves_torch_as_it_was(two_threads):
    begun, idle = [], threading.Event()

    def work(item):
        begun.append(item)
        if item == 0:
            raise ValueError(item)
        idle.wait(0.01)

    with pytest.raises(ValueError, match="0"):
        list(side_by_side(work, range(5000)))
    assert len(begun) < 5000
    assert torch.get_num_threads() == 2
