"""The settings that a class or function declares by its signature. Importing this module imports no torch."""

import inspect
import typing
from collections.abc import Callable, Mapping

Declared = Callable[..., object]
"""A class or function whose arguments are settings."""


def argument_types(declared: Declared, every: bool = False) -> Mapping[str, object]:
    """Settings and their types: the keyword-only arguments, or with ``every`` all arguments where none is so."""
    inner = inspect.unwrap(declared.__init__ if isinstance(declared, type) else declared)  # type: ignore[misc]
    hints = typing.get_type_hints(inner)
    arguments = [one for one in inspect.signature(inner).parameters.values() if one.name != "self"]
    named = [one for one in arguments if one.kind is one.KEYWORD_ONLY]
    return {one.name: hints.get(one.name, object) for one in (arguments if every and not named else named)}
