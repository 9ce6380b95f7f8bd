"""Packages that export needs and the rest does not: imported where used, and missed with one message."""

import importlib
from types import ModuleType

from mdrepro.core.errors import NotAttempted


def needed(module: str) -> ModuleType:
    """A module of an optional package.

    Raises:
        NotAttempted: it is not installed; the message has the command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        package = module.split(".")[0]
        raise NotAttempted(f"export needs {package}, which is not installed: pip install mdrepro[export]") from None
