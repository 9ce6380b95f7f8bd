"""Latents and text features of a data set, computed once, so that no training step runs a frozen encoder.

A cache is a folder of safetensors and JSON. A picture that occurs several times (with other captions) is encoded once
in each shard, a caption once in all. Every file carries one key, the hash of the data's fingerprint, the weights and
configs of both encoders, the tokenizer, and how latents are stored; one with another key is never used. A shard appears
whole or not at all, so a build that was killed goes on with the shards that are missing; those that are there are held
to the hash of their content.

64 samples of 8x8x8 latents and 32 x 128 text features are read in 1 ms on one core; the files are mapped into memory.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from pydantic import BaseModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModel, PreTrainedTokenizerBase

from mdrepro.core.console import Progress
from mdrepro.core.errors import BadInput, check
from mdrepro.core.files import digest, replacing, sha256, sweep, write_text
from mdrepro.core.locks import hold
from mdrepro.core.reading import parse_json, read_json
from mdrepro.data import hashes
from mdrepro.data.examples import Batch, Examples
from mdrepro.models import latents, text

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
FORMAT = 1  # of the folder; another number is another cache
RECORD, CAPTIONS, INDEX = "cache.json", "captions.json", "index.safetensors"

logger = logging.getLogger(__name__)


class _File(BaseModel):
    bytes: int
    sha256: str


class _Record(BaseModel):
    """What makes a cache complete."""

    key: str
    parts: dict[str, Any]
    files: dict[str, _File]


class CachedExamples:
    """Samples of a cache, by number. Made by `build` and `load`.

    ``fingerprint`` is the cache's key, ``null_text`` are the features of the empty text, float32 (tokens, width).
    """

    def __init__(self, folder: Path, record: _Record) -> None:
        self.fingerprint = record.key
        self._latents = _Rows(folder, "latents", record)
        self._texts = _Rows(folder, "texts", record)
        index = _opened(folder, INDEX, record)
        self._latent_of, self._text_of = index["latent"], index["text"]
        self.null_text: Tensor = index["null_text"].float()
        _intact(folder, CAPTIONS, record)
        self._captions: list[str] = read_json(folder / CAPTIONS, list[str])

    def __len__(self) -> int:
        return len(self._latent_of)

    def batch(self, indices: Sequence[int]) -> Batch:
        """``latent``, ``text`` and ``caption`` of samples; see `Batch`. Raises BadInput where a shard is damaged."""
        samples = torch.tensor([range(len(self))[index] for index in indices])
        latent_bchw = self._latents.take("latent", self._latent_of[samples])
        text_rows = self._text_of[samples]
        texts = [self._captions[number] for number in text_rows.tolist()]
        return {"latent": latent_bchw, "text": self._texts.take("text", text_rows), "caption": texts}


def build(
    examples: Examples,
    vae: AutoencoderKL,
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: CLIPTextModel,
    folder: Path,
    *,
    batch: int = 64,
    dtype: str = "float16",
    shard: int = 4096,
) -> CachedExamples:
    """The cache of a data set: what the folder holds already, and the rest computed now.

    One with another key is replaced. Of several processes that build the same one, one works and the others wait.

    Args:
        examples: the data.
        vae, tokenizer, text_encoder: as in `mdrepro.models.pipeline`; run on the device and in the precision that they
            have.
        folder: of this cache alone.
        batch: pictures, and texts, that are encoded at once.
        dtype: of stored latents and text features: float16, bfloat16 or float32.
        shard: samples, and texts, in one file.

    Raises BadInput for an option that is not allowed, no samples, or values that are not finite in ``dtype``.
    """
    check("dtype", dtype, DTYPES)
    if min(batch, shard, len(examples)) < 1:
        raise BadInput(f"batch {batch}, shard {shard}, {len(examples)} samples: each must be 1 or more")
    parts = {
        "format": FORMAT,
        "data": examples.fingerprint,
        "samples": len(examples),
        "vae": hashes.network(vae),
        "text_encoder": hashes.network(text_encoder),
        "tokenizer": hashes.tokenizer(tokenizer, text.length(tokenizer, text_encoder)),
        "dtype": dtype,
        "posterior": "mode",  # a latent is the mode of the encoder's distribution
        "shard": shard,
    }
    vae.eval()
    text_encoder.eval()
    with hold(folder / ".lock"), torch.no_grad():
        if _complete(folder, parts):
            return load(folder)
        files = _Build(folder, parts, batch)
        files.encode_texts(*files.encode_pictures(examples, vae), tokenizer, text_encoder)
        files.finish()
    return load(folder)


def load(folder: Path) -> CachedExamples:
    """A complete cache. The sizes of all files are checked now, the hash of each when it is first read.

    Raises BadInput for no complete cache, or a file that is missing or damaged.
    """
    record = _record(folder)
    if record is None:
        raise BadInput(f"{folder} holds no complete cache of this version: build it")
    if damaged := _of_other_size(folder, record):
        raise _damaged(damaged)
    return CachedExamples(folder, record)


class _Rows:
    """A table in files of equally many rows, each checked and mapped into memory when it is first needed."""

    def __init__(self, folder: Path, name: str, record: _Record) -> None:
        self._folder, self._name, self._record = folder, name, record
        self._shard: int = record.parts["shard"]
        self._open: dict[int, dict[str, Tensor]] = {}

    def take(self, column: str, rows: Tensor) -> Tensor:
        """float32, (rows, ...)."""
        numbers, inside = rows // self._shard, rows % self._shard
        parts = [self._file(number)[column][inside[numbers == number]] for number in numbers.unique().tolist()]
        sorted_rows = torch.cat(parts).float()
        taken = torch.empty_like(sorted_rows)
        taken[numbers.argsort(stable=True)] = sorted_rows
        return taken

    def _file(self, number: int) -> dict[str, Tensor]:
        if number not in self._open:
            self._open[number] = _opened(self._folder, _file_name(self._name, number), self._record)
        return self._open[number]


class _Build:
    def __init__(self, folder: Path, parts: Mapping[str, Any], batch: int) -> None:
        self.folder, self.parts, self.batch = folder, parts, batch
        self.key = digest(parts, compact=False)
        self.shard: int = parts["shard"]
        self.dtype = DTYPES[parts["dtype"]]
        self.names: list[str] = []

    def encode_pictures(self, examples: Examples, vae: AutoencoderKL) -> tuple[Tensor, list[str]]:
        """All latents. Returns the row of each sample, int64 (samples,), and its caption."""
        rows, captions = list[Tensor](), list[str]()
        with Progress("latents", len(examples), "samples") as progress:
            for number, first in enumerate(range(0, len(examples), self.shard)):
                last = min(first + self.shard, len(examples))
                name = _file_name("latents", number)
                if not self._has(name, self.key):
                    tensors, of_shard = self._latents(examples, range(first, last), vae, progress)
                    self._write(name, tensors, self.key, of_shard)
                else:
                    progress.advance(last - first)
                self.names.append(name)
                with safe_open(self.folder / name, "pt") as file:
                    rows.append(file.get_tensor("row").long() + number * self.shard)
                    captions += _header(file)["captions"]
        return torch.cat(rows), captions

    def _latents(
        self, examples: Examples, indices: Sequence[int], vae: AutoencoderKL, progress: Progress
    ) -> tuple[dict[str, Tensor], list[str]]:
        """One shard: ``latent`` of its different pictures, ``row`` of each sample, and the captions."""
        seen, encoded = dict[bytes, int](), list[Tensor]()
        waiting, rows, captions = list[Tensor](), list[int](), list[str]()

        def encode(count: int) -> None:
            given, waiting[:count] = torch.stack(waiting[:count]), []
            encoded.append(self._stored(latents.to_latent(vae, given, "uint8"), "latent"))

        for start in range(0, len(indices), self.batch):
            part = examples.batch(indices[start : start + self.batch])
            captions += part["caption"]
            for pixels in part["pixels"]:
                content = hashlib.blake2b(pixels.contiguous().numpy()).digest()
                if content not in seen:
                    seen[content] = len(seen)
                    waiting.append(pixels)
                rows.append(seen[content])
            if len(waiting) >= self.batch:
                encode(self.batch)
            progress.advance(len(part["pixels"]))
        if waiting:
            encode(len(waiting))
        return {"latent": torch.cat(encoded), "row": torch.tensor(rows, dtype=torch.int32)}, captions

    def encode_texts(
        self, rows: Tensor, caption_of: list[str], tokenizer: PreTrainedTokenizerBase, encoder: CLIPTextModel
    ) -> None:
        """The features of every different caption and of the empty one, and the index of the samples."""
        numbers: dict[str, int] = {}
        text_of = torch.tensor([numbers.setdefault(caption, len(numbers)) for caption in caption_of])
        captions = list(numbers)
        key = digest({"cache": self.key, "captions": captions}, compact=False)
        with Progress("texts", len(captions), "captions") as progress:
            for number, first in enumerate(range(0, len(captions), self.shard)):
                part = captions[first : first + self.shard]
                name = _file_name("texts", number)
                if not self._has(name, key):
                    groups = [part[start : start + self.batch] for start in range(0, len(part), self.batch)]
                    features = []
                    for group in groups:
                        features.append(self._stored(text.encode(tokenizer, encoder, group), "text"))
                        progress.advance(len(group))
                    self._write(name, {"text": torch.cat(features)}, key)
                self.names.append(name)
        null = self._stored(text.encode(tokenizer, encoder, [""])[0], "null_text")
        self._write(INDEX, {"latent": rows, "text": text_of, "null_text": null}, key)
        write_text(self.folder / CAPTIONS, json.dumps(captions))
        self.names += [INDEX, CAPTIONS]

    def finish(self) -> None:
        """Remove what an older cache left, and write the record, which makes the cache complete."""
        for file in self.folder.glob("*.safetensors"):
            if file.name not in self.names and file.name.startswith(("latents-", "texts-")):
                file.unlink()
        sweep(self.folder)
        files = {
            name: {"bytes": (self.folder / name).stat().st_size, "sha256": sha256(self.folder / name)}
            for name in self.names
        }
        record = {"key": self.key, "parts": self.parts, "files": files}
        write_text(self.folder / RECORD, json.dumps(record, indent=1))

    def _stored(self, values: Tensor, column: str) -> Tensor:
        stored = values.to("cpu", self.dtype).contiguous()
        if not stored.isfinite().all():
            raise BadInput(
                f"values of {column} are not finite in {self.parts['dtype']}: store them in bfloat16 or float32, and "
                "see that the encoders do not overflow"
            )
        return stored

    def _has(self, name: str, key: str) -> bool:
        """Whether a shard is there, with this key and the content that it was written with."""
        try:
            with safe_open(self.folder / name, "pt") as file:
                header = _header(file)
                tensors = {column: file.get_tensor(column) for column in file.keys()}  # noqa: SIM118
            return bool(header["key"] == key and header["sha256"] == _content(tensors, header["captions"]))
        except (OSError, SafetensorError, BadInput, ValueError, LookupError, TypeError, AttributeError):
            return False

    def _write(self, name: str, tensors: dict[str, Tensor], key: str, captions: Sequence[str] = ()) -> None:
        with replacing(self.folder / name) as aside:
            # one entry, as safetensors writes several in any order, and the file's hash would be another in every run
            header = {"key": key, "captions": captions, "sha256": _content(tensors, captions)}
            save_file(tensors, aside, metadata={"cache": json.dumps(header)})


def _content(tensors: Mapping[str, Tensor], captions: Sequence[str]) -> str:
    """SHA-256 of a shard's tensors and captions, by which a build that goes on knows a damaged one."""
    hashed = hashlib.sha256(json.dumps(captions).encode())
    for column, values in sorted(tensors.items()):
        hashed.update(f"{column} {values.dtype} {tuple(values.shape)}".encode())
        hashed.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def _complete(folder: Path, parts: Mapping[str, Any]) -> bool:
    """Whether the folder's cache has these parts and all of its files; the record of any other is removed."""
    record = _record(folder)
    if record is None:
        return False
    if record.key == digest(parts, compact=False):
        if not _of_other_size(folder, record):
            return True
    else:
        changed = [name for name, value in parts.items() if record.parts.get(name) != value]
        logger.info("%s: rebuilt, because %s changed", folder, ", ".join(changed))
    (folder / RECORD).unlink()
    return False


def _of_other_size(folder: Path, record: _Record) -> Path | None:
    """The first file that is missing or not as long as it was written."""
    sizes = {folder / name: entry.bytes for name, entry in record.files.items()}
    return next((file for file, size in sizes.items() if not file.is_file() or file.stat().st_size != size), None)


def _record(folder: Path) -> _Record | None:
    """What makes a cache complete; None where there is none, or one of another version."""
    try:
        record: _Record = read_json(folder / RECORD, _Record)
    except BadInput:
        return None
    same = record.parts.get("format") == FORMAT and record.key == digest(record.parts, compact=False)
    return record if same else None


def _opened(folder: Path, name: str, record: _Record) -> dict[str, Tensor]:
    """The tensors of a file, mapped."""
    _intact(folder, name, record)
    with safe_open(folder / name, "pt") as file:
        return {column: file.get_tensor(column) for column in file.keys()}  # noqa: SIM118


def _header(file: Any) -> dict[str, Any]:
    """``key``, ``captions`` of the samples of latents and ``sha256`` of the content, in a file beside its tensors."""
    header: dict[str, Any] = parse_json((file.metadata() or {}).get("cache", "{}"), "a shard", dict[str, Any])
    return header


def _intact(folder: Path, name: str, record: _Record) -> None:
    try:
        whole = sha256(folder / name) == record.files[name].sha256
    except (OSError, KeyError):
        whole = False
    if not whole:
        raise _damaged(folder / name)


def _damaged(file: Path) -> BadInput:
    return BadInput(f"{file} is missing or damaged: remove it and build the cache again; the other shards are kept")


def _file_name(table: str, number: int) -> str:
    return f"{table}-{number:05d}.safetensors"
