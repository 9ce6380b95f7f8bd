"""Warnings of libraries that tell nobody who runs this package anything: left out here, each with its reason.

All other warnings are shown. The package does this once, when it is imported, so that notebooks have it too.
"""

import logging
import warnings

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
