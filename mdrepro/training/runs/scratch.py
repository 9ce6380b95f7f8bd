"""Whether published checkpoints are ignored. An environment variable, so that child processes and kernels do the same.

Importing this module imports no torch.
"""

import os

VARIABLE = "MDREPRO_FROM_SCRATCH"


def from_scratch() -> bool:
    """Whether this process trains what this machine has not trained, be it published or not."""
    return bool(os.environ.get(VARIABLE))


def ignore_published(ignore: bool = True) -> None:
    """Say so for this process and the children that it will start."""
    os.environ[VARIABLE] = "1" if ignore else ""
