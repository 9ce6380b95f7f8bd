"""Models whose weights are stored as safetensors and as nothing else: a pickle can run code when it is loaded."""

import os
from pathlib import Path
from typing import Any, Self

from diffusers.models.modeling_utils import ModelMixin

from mdrepro.errors import BadInput

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings under which pickled weights are found."""


def refuse_pickles(folder: str | os.PathLike[str]) -> None:
    """Nothing, where ``folder`` holds weights as safetensors or no weights at all.

    Raises:
        BadInput: it holds pickled weights alone; the message says how to convert them.
    """
    files = sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []
    pickles = [file for file in files if file.suffix in PICKLES]
    if not pickles or any(file.suffix == ".safetensors" for file in files):
        return
    file = pickles[0]
    command = (
        "import torch; from safetensors.torch import save_file; "
        f"weights = torch.load({str(file)!r}, weights_only=True, map_location='cpu'); "
        "save_file({name: value.contiguous() for name, value in weights.items()}, "
        f"{str(file.with_suffix('.safetensors'))!r}, {{'format': 'pt'}})"
    )
    raise BadInput(
        f"{file} holds pickled weights, which can run code when loaded; safetensors alone is read. "
        f'Convert it once: python -c "{command}"'
    )


class SafeModelMixin(ModelMixin):
    """diffusers' ModelMixin, saved as and loaded from safetensors alone."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """As diffusers' own, from a folder or the hub.

        Raises:
            BadInput: the folder holds pickled weights alone, or ``use_safetensors`` is False.
        """
        if kwargs.get("use_safetensors") is False:
            raise BadInput(f"{cls.__name__} is loaded from safetensors alone: leave use_safetensors out")
        refuse_pickles(Path(pretrained_model_name_or_path, kwargs.get("subfolder") or ""))
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs | {"use_safetensors": True})

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As diffusers' own. Raises BadInput where ``safe_serialization`` is False."""
        if kwargs.get("safe_serialization") is False:
            raise BadInput(f"{type(self).__name__} is saved as safetensors alone: leave safe_serialization out")
        super().save_pretrained(save_directory, **kwargs)
