"""Text encoders: CLIP ViT-L/14, as in SD-1.5 and both papers, and a small one of the same class.

The text features of a prompt are the last hidden state after the final layer norm at every position, (tokens, width):
77 x 768 for CLIP ViT-L/14 (123M parameters). As in SD, prompts are padded to the full
length with the end token and no mask is used: attention is causal, so padding changes nothing before it. An encoder
whose config says ``registers: n`` gives its last n positions alone, padding that sees the whole prompt: the quick
tier's is trained to say it again there, in order (`mdrepro.training.objectives.registers`).
"""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from mdrepro.core.errors import BadInput
from mdrepro.models import safe
from mdrepro.models.protocols import TextEncoder, Tokenizer

CLIP_VIT_L14 = "openai/clip-vit-large-patch14"
IMAGE_HALF = "vision_model|visual_projection|text_projection|logit_scale"
"""Weights of a whole CLIP that its text model lacks."""
START, END, UNKNOWN = "<start>", "<end>", "<unknown>"

logger = logging.getLogger(__name__)


def load(source: str | os.PathLike[str] = CLIP_VIT_L14, **options: Any) -> tuple[Tokenizer, CLIPTextModel]:
    """A tokenizer and its text encoder, in eval mode; ``options`` as in transformers (``dtype``, ``variant``).

    ``source`` is a folder or a name on the hub, of CLIP's text model, of a whole CLIP (its image half is left out) or
    of a pipeline such as SD-1.5 with ``tokenizer`` and ``text_encoder`` inside. Raises BadInput where the weights are
    there as pickle alone, or some are missing, and NotAttempted where it is neither a local folder nor in the cache,
    and cannot be downloaded.
    """
    inside = Path(source, "text_encoder").is_dir()
    vocabulary, weights = ("tokenizer", "text_encoder") if inside else ("", "")
    offline = {"local_files_only": options["local_files_only"]} if "local_files_only" in options else {}
    with _quiet(logging.getLogger("transformers")):  # it reports the image half as unexpected
        encoder = safe.network(CLIPTextModel, source, subfolder=weights, unused=IMAGE_HALF, **options)
        if Path(source).is_dir():
            tokenizer = safe.part(AutoTokenizer, Path(source, vocabulary))
        else:
            with safe.from_hub(source):
                tokenizer = AutoTokenizer.from_pretrained(source, subfolder=vocabulary, **offline)
    safe.check_vocabulary(tokenizer, encoder.config.vocab_size, source)
    return tokenizer, encoder


@contextlib.contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def length(tokenizer: Tokenizer, encoder: TextEncoder) -> int:
    """Tokens of every prompt, start and end included: 77 for CLIP."""
    return min(tokenizer.model_max_length, encoder.config.max_position_embeddings)


def tokenize(tokenizer: Tokenizer, prompts: Sequence[str], tokens: int) -> Tensor:
    """Token numbers of prompts, (prompts, tokens).

    A longer prompt loses its last words and keeps its end token. What is lost, and words that a small vocabulary lacks,
    are logged as warnings.
    """
    padded = {"padding": "max_length", "max_length": tokens, "truncation": True, "return_tensors": "pt"}
    ids: Tensor = tokenizer(list(prompts), **padded).input_ids
    whole = tokenizer(list(prompts), verbose=False).input_ids
    for prompt, row in zip(prompts, whole, strict=True):
        if len(row) > tokens:
            logger.warning("%d of %d tokens are left out at the end of %r", len(row) - tokens, len(row), prompt)
        if tokenizer.unk_token == UNKNOWN and tokenizer.unk_token_id in row:
            logger.warning("words outside the vocabulary in %r", prompt)
    return ids


def encode(tokenizer: Tokenizer, encoder: TextEncoder, prompts: Sequence[str]) -> Tensor:
    """Text features of prompts, (prompts, tokens, width): the last hidden state after the final norm.

    Gradients flow if they are enabled. The features of a prompt do not depend on the others beyond float rounding.
    """
    ids = tokenize(tokenizer, prompts, length(tokenizer, encoder))
    features = encoder(ids.to(encoder.device)).last_hidden_state
    return features[:, -getattr(encoder.config, "registers", 0) :]  # -0: all


def word_tokenizer(vocabulary: Iterable[str], tokens: int = 32) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, for captions of a closed vocabulary.

    Text is lower-cased and split at white space; punctuation marks are words. Numbers: start 0, end (and padding) 1,
    unknown 2, then the words in the order given; prompts have ``tokens``, start and end included. It is saved as one
    ``tokenizer.json``. Raises BadInput where a word occurs twice, or would be split or changed.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, normalizers, pre_tokenizers, processors

    words = [START, END, UNKNOWN, *vocabulary]
    numbers = {word: number for number, word in enumerate(words)}
    if len(numbers) < len(words):
        raise BadInput("the vocabulary has a word twice")
    backend = Backend(models.WordLevel(numbers, unk_token=UNKNOWN))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, 0), (END, 1)]
    )
    for number, word in enumerate(words[3:], start=3):
        if backend.encode(word, add_special_tokens=False).ids != [number]:
            raise BadInput(f"{word!r} is not one word in lower case")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=UNKNOWN,
        model_max_length=tokens,
    )


def small_encoder(
    tokenizer: Tokenizer, *, width: int = 128, layers: int = 4, heads: int = 4, registers: int = 0
) -> CLIPTextModel:
    """CLIP's text model at a small size, random weights (from torch's global generator), in eval mode.

    The defaults have 0.8M parameters beside the word embeddings. ``registers``: how many of the last tokens are the
    features; 0 for all.
    """
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tokenizer.model_max_length,
        **{name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")},
    )
    if registers:
        config.update({"registers": registers})
    with torch.no_grad():
        return CLIPTextModel(config).eval()
