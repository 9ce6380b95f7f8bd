"""Weights are read and written as safetensors; pickle files, which run code when they are opened, are refused."""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from diffusers.models.modeling_utils import ModelMixin

from mdrepro.core.errors import BadInput, NotAttempted

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
WEIGHTS = ("diffusion_pytorch_model", "pytorch_model", "model")
"""What diffusers and transformers call files of weights; a variant's name and the number of a shard may follow."""


def refuse_pickles(source: str | os.PathLike[str], subfolder: str | None = None, variant: str | None = None) -> None:
    """Do nothing where ``source`` can be loaded from safetensors, or is no local folder.

    Raises BadInput for a file, and where the ``subfolder``, or a component of a pipeline, has weights, or those of the
    ``variant`` (such as ``fp16``), as pickle and not as safetensors: the message has the code that converts them.
    """
    path = Path(source, subfolder or "")
    if path.is_file():
        raise _refusal(path) if path.suffix in PICKLES else BadInput(f"{path} is a file: expected a folder")
    for folder in _components(path):
        pickles = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
        safe = list(folder.glob("*.safetensors"))
        wanted = [file for file in pickles if _is_weights(file, variant)]
        if pickles and not safe:
            raise _refusal(pickles[0])
        if wanted and not any(_is_weights(file, variant) for file in safe):
            raise _refusal(wanted[0])


def _is_weights(file: Path, variant: str | None) -> bool:
    return re.sub(r"-\d+-of-\d+", "", file.stem) in [f"{kind}.{variant}" if variant else kind for kind in WEIGHTS]


def _components(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield folder
    index = folder / "model_index.json"
    if index.is_file():
        yield from (folder / name for name in json.loads(index.read_text()) if (folder / name).is_dir())


def _refusal(file: Path) -> BadInput:
    """transformers calls its weights pytorch_model.bin and model.safetensors; diffusers changes the suffix alone."""
    converted = file.with_name(file.name.replace("pytorch_model", "model", file.name.startswith("pytorch_model")))
    source, target = json.dumps(str(file)), json.dumps(str(converted.with_suffix(".safetensors")))
    code = (
        "import torch; from safetensors.torch import save_file; "
        f'weights = torch.load({source}, map_location="cpu", weights_only=True); '
        "save_file({name: value.clone().contiguous() for name, value in weights.items()}, "
        f'{target}, metadata={{"format": "pt"}})'
    )
    return BadInput(
        f"{file} holds pickled weights, which can run code when loaded; safetensors alone is read. "
        f"Convert it once: python -c {shlex.quote(code)}"
    )


class SafetensorsOnly:
    """Reads and writes safetensors and nothing else: a base class named before the one of diffusers."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Self:
        """diffusers' ``from_pretrained`` of a local folder or a name on the hub, from safetensors.

        Raises BadInput for ``use_safetensors=False``, or weights that are there as pickle alone, and NotAttempted
        where it is neither a local folder nor in the cache, and cannot be downloaded.
        """
        if options.get("use_safetensors") is False:
            raise BadInput("use_safetensors is False: it must be True; safetensors alone is read")
        source = pretrained_model_name_or_path
        refuse_pickles(source, options.get("subfolder"), options.get("variant"))
        with from_hub(source):
            return super().from_pretrained(source, **options | {"use_safetensors": True})  # type: ignore[misc]

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **options: Any,
    ) -> None:
        """diffusers' ``save_pretrained``. Raises BadInput for ``safe_serialization=False``."""
        if not safe_serialization:
            raise BadInput("safe_serialization is False: it must be True; weights are saved as safetensors alone")
        # Saving a pipeline, diffusers looks for these two in the signature of its parts.
        options |= {"variant": variant} if variant else {}
        options |= {"max_shard_size": max_shard_size} if max_shard_size else {}
        super().save_pretrained(save_directory, **options)  # type: ignore[misc]


class SafeModelMixin(SafetensorsOnly, ModelMixin):
    """diffusers' ModelMixin, read and written as safetensors alone."""


@contextlib.contextmanager
def from_hub(source: str | os.PathLike[str]) -> Iterator[None]:
    """``with from_hub(source):`` turns a download that failed into NotAttempted, with the command that gets it.

    Errors about a local folder pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if Path(source).exists():
            raise
        reason = str(error).strip().partition("\n")[0]
        raise NotAttempted(
            f"{source} is no folder here and could not be had from the hub ({reason}); get it with "
            f"`hf download {source} --local-dir FOLDER` and give the folder"
        ) from error
