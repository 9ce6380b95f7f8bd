"""What data are made from, as hashes: networks and tokenizers that give the same have the same one."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

FLEETING = ("transformers_version", "architectures", "dtype", "torch_dtype")  # config entries that saving changes


def of(parts: Mapping[str, Any]) -> str:
    """SHA-256 over JSON values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def network(model: nn.Module) -> str:
    """SHA-256 over class, config, and names, types, shapes and values of the weights of a diffusers or transformers
    model; the same after saving and loading, and on any device."""
    config: Any = model.config
    entries = dict(config) if isinstance(config, Mapping) else config.to_dict()
    kept = {name: value for name, value in entries.items() if not name.startswith("_") and name not in FLEETING}
    digest = hashlib.sha256(json.dumps([type(model).__name__, kept], sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(json.dumps([name, str(weight.dtype), list(weight.shape)]).encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer(words: Any, tokens: int) -> str:
    """SHA-256 over all that makes token numbers of a text.

    Args:
        words: a tokenizer of transformers, on the tokenizers library.
        tokens: the length that texts are padded and cut to. What the tokenizer itself holds of padding and truncation
            is left out, as every call changes it.
    """
    rules = json.loads(words.backend_tokenizer.to_str())
    kept = {name: value for name, value in rules.items() if name not in ("padding", "truncation")}
    return of({"rules": kept, "tokens": tokens, "padding": words.pad_token_id})
