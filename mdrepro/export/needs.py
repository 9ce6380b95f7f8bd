"""Packages that export needs and the rest does not: imported where used, and missed with one message."""

import importlib
from types import ModuleType

from mdrepro.core.errors import NotAttempted


def needed(module: str) -> ModuleType:
    """A module of an optional package. Raises NotAttempted, with the command to install it, where it is missing."""
    package = module.split(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package:
            raise
        raise NotAttempted(f"export needs {package}, which is not installed: pip install mdrepro[export]") from None
