"""Networks, tokenizers and schedulers as folders: those of a finished run, and those that others trained."""

import functools
import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdrepro.core import paths
from mdrepro.core.errors import BadInput, NotAttempted, check
from mdrepro.core.files import sha256
from mdrepro.core.reading import read_header, read_json
from mdrepro.data import folders
from mdrepro.models import bars

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

    from mdrepro.training.objectives.inputs import Stored

SCHEDULERS = {
    "DDIMScheduler": "diffusers",
    "LCMScheduler": "diffusers",
    "RenoisingScheduler": "mdrepro.diffusion.renoise",
}
OF_ROLE: Mapping[str, tuple[str, ...]] = {
    "vae": ("vae",),
    "text": ("text_encoder", "tokenizer"),
    "unet": ("unet", "scheduler"),
    "teacher": ("unet",),
    "start": ("vae",),
}
"""The parts that a role of a recipe takes, its network first."""
OF_THIS_MACHINE = ("_name_or_path", "name_or_path")
KINDS = ("reader", "clip", "vae", "unet", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def load(folder: Path, part: str, rest: Path | None = None) -> Any:
    """A part, one of `KINDS`, from the ``folder`` that ``save_pretrained`` wrote; networks in eval mode, float32, CPU.

    ``rest`` is another network's folder, whose weights of the same names stand for those that ``folder`` lacks. Raises
    BadInput for a class that is not allowed there, or a folder that is not there.
    """
    from mdrepro.models import safe

    if not folder.is_dir():
        raise BadInput(f"{paths.relative(folder)}: no such folder")
    if part == "tokenizer":
        from transformers import AutoTokenizer

        return safe.part(AutoTokenizer, folder)
    if part == "text_encoder":
        from transformers import CLIPTextModel

        return safe.network(CLIPTextModel, folder).float()
    kind = _kind(folder, part)
    if part == "scheduler":
        return safe.part(kind, folder)
    if rest is not None:
        return _completed(kind, folder, rest)
    # so loaded, diffusers draws from torch's generator, and what is drawn after it stays as it was in earlier runs
    return safe.network(kind, folder, low_cpu_mem_usage=False).float()


def _completed(kind: "type[ModelMixin]", folder: Path, rest: Path) -> "ModelMixin":
    from safetensors.torch import load_file

    from mdrepro.models import safe

    safe.check_config(folder / "config.json")
    network = kind.from_config(kind.load_config(folder))
    own = network.state_dict()
    files = {name: place / WEIGHTS for place in (rest, folder) for name in read_header(place / WEIGHTS)}
    both = load_file(rest / WEIGHTS) | load_file(folder / WEIGHTS)
    strange = [name for name, file in files.items() if name not in own and file.parent == folder]
    shapes = [name for name in own if name in both and own[name].shape != both[name].shape]
    safe.check_names(own.keys() - both.keys(), strange, shapes, folder, files)
    safe.check_finite(both, folder, files)
    network.load_state_dict({name: both[name].float() for name in own})
    return network.float().eval()


def _kind(folder: Path, part: str) -> "type[ModelMixin]":
    """The class that the folder's config names, if it is one of those allowed for this part."""
    from mdrepro.models.denoiser import CLASSES

    allowed: Mapping[str, str] = {
        "reader": {"SceneReader": "mdrepro.models.scenes.reader"},
        "clip": {"SceneClip": "mdrepro.models.scenes.clip"},
        "vae": {"Autoencoder": "mdrepro.models.mobilediffusion.vae", "AutoencoderKL": "diffusers"},
        "unet": CLASSES,
        "scheduler": SCHEDULERS,
    }[part]
    config = folder / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not isinstance(name := read_json(config, dict[str, Any]).get("_class_name"), str):
        raise BadInput(f"{paths.relative(config)} names no class: expected {', '.join(allowed)}")
    check(f"class of {paths.relative(folder)}", name, allowed)
    kind: type[ModelMixin] = getattr(importlib.import_module(allowed[name]), name)
    return kind


def save(parts: Mapping[str, "Stored"], folder: Path) -> None:
    """Write each part into a folder of its name, in safetensors and JSON without this machine's paths."""
    for name, part in parts.items():
        with bars.hidden():
            part.save_pretrained(folder / name)
        for file in (folder / name).glob("*.json"):
            config = read_json(file)
            kept = {key: value for key, value in config.items() if key not in OF_THIS_MACHINE or value is None}
            if kept != config:
                file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class Pretrained:
    """Weights that others trained: a folder or a name on the hub, of a pipeline or of the part itself.

    A name that is in `folders.weights` is not looked for on the hub.
    """

    source: str

    def folder(self) -> Path | None:
        """Its folder, if it is on this machine."""
        return next((place for place in (Path(self.source), folders.weights(self.source)) if place.is_dir()), None)

    def digest(self, role: str = "") -> str:
        """SHA-256 over the safetensors and JSON files of a folder, or of its parts for a role; of the hub, the name."""
        folder = self.folder()
        if folder is None:
            return self.source
        digest = hashlib.sha256()
        for place in [folder / part for part in OF_ROLE.get(role, ()) if (folder / part).is_dir()] or [folder]:
            for file in sorted(place.rglob("*")):
                if file.suffix in (".safetensors", ".json"):
                    state = file.stat()
                    content = _sha256(file, state.st_size, state.st_mtime_ns)
                    digest.update(f"{file.relative_to(folder).as_posix()} {content}\n".encode())
        return digest.hexdigest()

    def check(self, role: str) -> None:
        """Do nothing where a role's weights are here or, as far as their config says, on the hub.

        Raises BadInput for a folder without them, or pickles; NotAttempted, which says where to put them, otherwise.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HFValidationError

        from mdrepro.models.safe import refuse_pickles

        folder, part = self.folder(), OF_ROLE[role][0]
        if folder:
            inside = folder / part if (folder / part).is_dir() else folder
            refuse_pickles(inside)
            if not ((inside / "config.json").is_file() and any(inside.glob("*.safetensors"))):
                raise BadInput(
                    f"{folder} holds no {part}: config.json and *.safetensors are needed, or {part}/ with them"
                )
            return
        try:
            hf_hub_download(self.source, "config.json", subfolder=None if role == "text" else part)
        except (OSError, HFValidationError) as error:
            reason, place = str(error).strip().partition("\n")[0], paths.relative(folders.weights(self.source))
            raise NotAttempted(
                f"this run needs the {part} of {self.source}, which is no folder here and could not be downloaded "
                f"({reason}). Put or link it in {place}, for example by "
                f"`hf download {self.source} --local-dir {place}`, or give --set pretrained.{role}=FOLDER"
            ) from error

    def load(self, part: str) -> Any:
        """See `load`. Raises BadInput for pickles too, NotAttempted for what is not here and cannot be downloaded."""
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        from mdrepro.models import safe, text

        folder = self.folder()
        source = os.fspath(folder or self.source)
        if part in ("text_encoder", "tokenizer"):
            tokenizer, encoder = text.load(source)
            return tokenizer if part == "tokenizer" else encoder.float()
        inside = {} if folder and not (folder / part).is_dir() else {"subfolder": part}
        if folder and part != "scheduler":
            return load(folder / inside.get("subfolder", ""), part)
        if folder:
            return safe.part(DDIMScheduler, folder / inside.get("subfolder", ""))
        if part == "scheduler":
            with safe.from_hub(source):
                return DDIMScheduler.from_pretrained(source, **inside)
        kind = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part]
        return safe.network(kind, source, **inside).float()


@functools.lru_cache(maxsize=1024)  # gigabytes, and a key is asked for often
def _sha256(file: Path, size: int, changed: int) -> str:
    return sha256(file)
