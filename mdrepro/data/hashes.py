"""Hashes of networks and tokenizers: equal for those that give the same features."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from mdrepro.core.files import digest

FLEETING = ("transformers_version", "architectures", "dtype", "torch_dtype")  # config entries that saving changes


class Configured(Protocol):
    """A model of diffusers or transformers; ``config`` is a mapping or has ``to_dict``."""

    @property
    def config(self) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...


def network(model: Configured) -> str:
    """SHA-256 over class, config, and names, types, shapes and values of the weights of a diffusers or transformers
    model; the same after saving and loading, and on any device."""
    config = model.config
    entries = dict(config) if isinstance(config, Mapping) else config.to_dict()
    kept = {name: value for name, value in entries.items() if not name.startswith("_") and name not in FLEETING}
    content = hashlib.sha256(json.dumps([type(model).__name__, kept], sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        content.update(json.dumps([name, str(weight.dtype), list(weight.shape)]).encode())
        content.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return content.hexdigest()


def tokenizer(tokenizer: Any, tokens: int) -> str:
    """SHA-256 over everything by which a tokenizer of transformers turns a text into ``tokens`` numbers.

    What the tokenizer itself holds of padding and truncation is left out, as every call changes it.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}
    return digest({"rules": kept, "tokens": tokens, "padding": tokenizer.pad_token_id}, compact=False)
