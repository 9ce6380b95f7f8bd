"""The process's threads, generators and choice of kernels: set for training, and restored afterwards."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from mdrepro.data.examples import Batch


@contextmanager
def surroundings(threads: int) -> Iterator[None]:
    """Deterministic kernels and ``threads`` CPU threads (0: as they are) inside; as before afterwards.

    Operations that have no deterministic kernel are let pass with torch's warning.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    before = torch.get_num_threads()
    kernels = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(), torch.backends.cudnn.flags(benchmark=False, deterministic=True):
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            memory.fill_uninitialized_memory = False
            torch.set_num_threads(threads or before)
            yield
        finally:
            torch.use_deterministic_algorithms(kernels[0], warn_only=kernels[1])
            memory.fill_uninitialized_memory = filled
            torch.set_num_threads(before)
            random.setstate(states[0])
            np.random.set_state(states[1])


def seed_generators(address: str, device: torch.device) -> None:
    """Seed torch's, numpy's and Python's own generators by a hash of ``address``."""
    seed = int.from_bytes(hashlib.blake2b(address.encode(), digest_size=8).digest()) >> 1
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 50 times as long, looking for devices
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def placed(batch: Batch, device: torch.device) -> dict[str, Any]:
    """The batch with its tensors on the device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }
