"""Warnings of libraries that tell nobody who runs this package anything: left out here, each with its reason.

All other warnings are shown. The package does this once, when it is imported, so that notebooks have it too.
"""

import logging
import sys
import warnings
from types import ModuleType
from typing import cast

MESSAGES: dict[str, str] = {
    "The parameter 'pretrained' is deprecated": "lpips asks torchvision for its backbones by a former argument",
    "Arguments other than a weight enum or `None` for 'weights'": "the same; their weights are loaded by us afterwards",
}
"""Beginnings of messages of Python's warnings, and why they are left out."""
LOGGERS: dict[str, str] = {
    "diffusers.quantizers.torchao.torchao_quantizer": "the exporter's torchao is not the one diffusers looks for",
    "torch.utils._pytree": "torchao registers an enum as former torches wanted it",
}
"""Loggers whose warnings, not errors, are left out, and why."""


def leave_out() -> None:
    """Filter `MESSAGES` and `LOGGERS` in this process."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message=message, category=UserWarning)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)


def leave_out_grammars() -> None:
    """In a process of our own, before nbformat is imported: jsonschema goes without the formats of rfc3987-syntax.

    It compiles 38 grammars when it is imported, over a second, for IRIs, which no notebook's schema has.
    """
    sys.modules.setdefault("rfc3987_syntax", cast(ModuleType, None))
